"""What can go wrong between a model and its tokenizer: it is another model's, it fails, it asks for remote code, or BOS stands twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hooked_diffusion.spec import DiffusionSpec

#: No tokenizer needs more tokens for a character: byte-level ones take one per byte. More come from rules that multiply the text.
MOST_TOKENS_PER_CHARACTER = 100


def check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase | None, rows: int, spec: DiffusionSpec) -> None:
    """Raise ValueError when a tokenizer does not work, or does not belong to a model of `rows` vocabulary rows; None passes.

    It does not belong to the model when it has ids that the model has not, or another mask token. It does not work when it has no tokens,
    fails on its own first token, or makes hundreds of tokens of one character.
    """
    if tokenizer is None:
        return
    with tokenizer_errors(name):
        vocabulary = tokenizer.get_vocab()
        if not vocabulary:
            raise ValueError(f"{name}: the tokenizer has no tokens; pass the checkpoint's own, or tokenizer=None")
        for text in (min(vocabulary, key=lambda token: vocabulary[token]), *_known_letter(tokenizer)):
            n_tokens = len(tokenizer(text)["input_ids"])
            if n_tokens > MOST_TOKENS_PER_CHARACTER * max(1, len(text)):
                raise ValueError(f"{name}: the tokenizer makes {n_tokens} tokens of {text[:40]!r}; pass another one, or tokenizer=None")
    token, largest = max(vocabulary.items(), key=lambda item: item[1])
    if largest >= rows:
        raise ValueError(
            f"{name}: the tokenizer does not belong to it: {token!r} is id {largest}, and the model has {rows} rows; "
            "pass the checkpoint's own, or tokenizer=None"
        )
    own = tokenizer.mask_token_id
    if None not in (own, spec.mask_token_id) and own != spec.mask_token_id:
        raise ValueError(
            f"{name}: the tokenizer does not belong to it: its mask token {tokenizer.mask_token!r} is id {own}, and the model's masks are "
            f"{spec.mask_token_id}; pass the checkpoint's own, or state mask_token_id"
        )


def _known_letter(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A letter; nothing for a tokenizer that knows no letters, such as one of whole words."""
    try:
        tokenizer("a")
    except Exception:  # tokenizers raises nothing narrower
        return []
    return ["a"]


@contextmanager
def tokenizer_errors(name: str) -> Iterator[None]:
    """Inside, an error of the `tokenizers` library becomes a ValueError that names the model.

    That library raises plain `Exception`, and a `PanicException` where its own code fails; nothing else is caught.
    """
    try:
        yield
    except BaseException as error:
        # Rust's panic is a BaseException whose class cannot be imported, so its name is compared.
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise ValueError(f"{name}: the tokenizer fails: {error}; pass another one, or tokenizer=None and token ids") from error
        raise


def check_bos(tokenizer: PreTrainedTokenizerBase | None, texts: str | Sequence[str], prepended: bool) -> None:
    """Raise ValueError when BOS would stand twice: a text begins with it, and it is `prepended` as well."""
    bos = None if tokenizer is None else tokenizer.bos_token
    doubled = [text for text in ([texts] if isinstance(texts, str) else texts) if bos and prepended and text.startswith(str(bos))]
    if doubled:
        raise ValueError(f"BOS would stand twice: the text {doubled[0][:40]!r} begins with {bos!r}; take it out, or pass prepend_bos=False")


@contextmanager
def without_remote_code(tokenizer: PreTrainedTokenizerBase | None) -> Iterator[None]:
    """Inside, TransformerLens may load `tokenizer` again so that it adds BOS, but from local files alone and without their code.

    TransformerLens does not load a tokenizer again if its files say that only their code can load it, or if it has no files. At the
    end the tokenizer's `init_kwargs` are as they were.
    """
    if tokenizer is None:
        yield
        return
    before = tokenizer.init_kwargs
    tokenizer.init_kwargs = {"name_or_path": ""} | before | {"trust_remote_code": False, "local_files_only": True}
    if not tokenizer.init_kwargs["name_or_path"]:
        tokenizer.init_kwargs["add_bos_token"] = True  # TransformerLens takes this as: nothing to load again
    try:
        yield
    finally:
        tokenizer.init_kwargs = before


def spelled(tokenizer: PreTrainedTokenizerBase | None, ids: Tensor) -> dict[int, str]:
    """How each id that occurs in `ids` is spelled; `#id` without a tokenizer."""
    return {token: f"#{token}" if tokenizer is None else str(tokenizer.decode([token])) for token in ids.unique().tolist()}
