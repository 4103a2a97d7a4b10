"""Where errors of other libraries become one sentence.

Checkpoints are read by other libraries: json, safetensors, torch, gguf, tokenizers, transformers, accelerate, huggingface_hub. On a damaged
or hostile file each of them may raise any error: a KeyError, a ZeroDivisionError, a class of its own. Such an error is no bug of theirs or
ours. So a call that gives them the content of a file stands within `reading`, which turns their errors into `Unreadable`.

Nothing else stands there. This package's own code raises ValueErrors on purpose; any other error in it is a bug, and is not hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: How much of another library's message is quoted.
QUOTED = 300


class Unreadable(ValueError):
    """A file or field that another library could not read; the message names it, that library's error, and a remedy."""


class MissingExtra(ImportError, Unreadable):
    """A file that needs a package which is not installed."""


@contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Inside, another library reads `what`: its errors become `Unreadable`, with the `remedy`.

    A lack of memory passes unchanged, because it says nothing about the file. Errors that are `Unreadable` already pass unchanged too.
    """
    try:
        yield
    except (Unreadable, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise Unreadable(f"{what} ({quoted(error)}); {remedy}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Rust's, which is no Exception
            raise
        raise Unreadable(f"{what} ({quoted(error)}); {remedy}") from error


def quoted(error: BaseException) -> str:
    """Another library's error on one line: its class, and its message, cut, with "?" for letters that cannot be printed."""
    text = " ".join(str(error).split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"{type(error).__name__}: {text[:QUOTED]}" + ("…" if len(text) > QUOTED else "")
