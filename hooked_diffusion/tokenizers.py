"""What can go wrong between a model and its tokenizer: one of another model, remote code, and a BOS that stands twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hooked_diffusion.spec import DiffusionSpec


def check_tokenizer(name: str, tokenizer: Any, rows: int, spec: DiffusionSpec) -> None:
    """Raise ValueError when a tokenizer does not belong to a model of `rows` rows: ids beyond them, or another mask token; None passes."""
    if tokenizer is None:
        return
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise ValueError(
            f"{name}: the tokenizer does not belong to it: {token!r} is id {largest}, and the model has {rows} rows; "
            "pass the checkpoint's own, or tokenizer=None"
        )
    own = getattr(tokenizer, "mask_token_id", None)
    if None not in (own, spec.mask_token_id) and own != spec.mask_token_id:
        raise ValueError(
            f"{name}: the tokenizer does not belong to it: its mask token {tokenizer.mask_token!r} is id {own}, and the model's masks are "
            f"{spec.mask_token_id}; pass the checkpoint's own, or state mask_token_id"
        )


def check_bos(tokenizer: Any, texts: str | Sequence[str], prepended: bool) -> None:
    """Raise ValueError when BOS would stand twice: a text begins with it, and it is `prepended` as well."""
    bos = getattr(tokenizer, "bos_token", None)
    doubled = [text for text in ([texts] if isinstance(texts, str) else texts) if bos and prepended and text.startswith(bos)]
    if doubled:
        raise ValueError(f"BOS would stand twice: the text {doubled[0][:40]!r} begins with {bos!r}; take it out, or pass prepend_bos=False")


@contextmanager
def without_remote_code(tokenizer: Any) -> Iterator[None]:
    """Inside, TransformerLens may load `tokenizer` again so that it adds BOS, but from local files and without asking to run their code.

    It keeps a tokenizer whose files say that only such code can load it, and one that came from no files. What this adds to the
    tokenizer's `init_kwargs` is taken out again at the end.
    """
    if tokenizer is None:
        yield
        return
    before = tokenizer.init_kwargs
    tokenizer.init_kwargs = {"name_or_path": ""} | before | {"trust_remote_code": False, "local_files_only": True}
    if not tokenizer.init_kwargs["name_or_path"]:
        tokenizer.init_kwargs["add_bos_token"] = True  # what TransformerLens takes as: nothing to load again
    try:
        yield
    finally:
        tokenizer.init_kwargs = before
