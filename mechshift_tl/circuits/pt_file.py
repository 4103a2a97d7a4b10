"""Files that `torch.save` wrote, from anyone: tensors and plain values are read, nothing is executed, and nothing outgrows the file.

Such a file is a zip with one pickle and the bytes of the tensors. A pickle can name any function and have it called, so the names in it are
read first, without running it. Only those that a tensor needs are let through; then torch reads it by its own restricted reader.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path

import torch

#: What a pickled tensor names: the function that puts it together, an empty dictionary of hooks, and the type of its storage.
ALLOWED = re.compile(r"torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch \w+Storage")
#: Opcodes that look a function up by other means than the name written beside them.
LOOKS_UP = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}
#: The largest pickle, which holds names and numbers alone; the tensors' bytes stand beside it.
MAX_PICKLE_BYTES = 64 * 2**20


class MalformedFile(ValueError):
    """What is wrong with a file, as the rest of a sentence that begins with the file's name."""


def load_pt(path: Path) -> object:
    """The tensors and plain values of a file that `torch.save` wrote. Raises `MalformedFile` on any other file."""
    try:
        with zipfile.ZipFile(path) as file:
            _check_sizes(file, path)
            _check_names(file)
        return torch.load(path, weights_only=True, map_location="cpu")
    except (FileNotFoundError, MalformedFile):
        raise
    except Exception:  # on damaged bytes zipfile, pickletools and torch raise nearly anything
        raise MalformedFile("is damaged, or holds more than tensors and plain values, which is not unpickled") from None


def _check_sizes(file: zipfile.ZipFile, path: Path) -> None:
    """Torch stores without compression. Compressed parts, or parts that overlap, could unfold into more than memory holds."""
    parts = file.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(part.file_size for part in parts) > path.stat().st_size:
        raise MalformedFile("is compressed, as torch.save never does")


def _check_names(file: zipfile.ZipFile) -> None:
    """Raise `MalformedFile` where the pickle names more than tensors need."""
    # Exactly one, or the unpacking fails: a second pickle could be the one that is read.
    (pickled,) = (part for part in file.infolist() if part.filename.split("/")[-1] == "data.pkl")
    if pickled.file_size > MAX_PICKLE_BYTES:
        raise MalformedFile(f"holds a pickle of {pickled.file_size / 2**20:.0f} MiB, over {MAX_PICKLE_BYTES // 2**20}")
    for opcode, argument, _ in pickletools.genops(file.read(pickled)):
        if opcode.name in LOOKS_UP or (opcode.name == "GLOBAL" and not ALLOWED.fullmatch(str(argument))):
            raise MalformedFile(f"is damaged, or holds more than tensors and plain values, which is not unpickled: {argument}")
