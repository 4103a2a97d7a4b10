"""The tokenizer files of a checkpoint's folder: whether there are any, which mask token they name, and how they are loaded."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hooked_diffusion.checkpoints.fields import Config, object_in, text_in, whole_in
from hooked_diffusion.checkpoints.files import read_json

#: Any of these holds a vocabulary, or says which tokenizer it is.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds the files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def load_tokenizer(
    folder: Path, gguf_file: str | None = None, native: type[PreTrainedTokenizerBase] | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, or of a GGUF file in it, as the class `native`, or as its own files say. Runs no remote code."""
    kind = native or (PreTrainedTokenizerFast if _is_generic(folder) else AutoTokenizer)
    if gguf_file is None:
        return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return kind.from_pretrained(str(folder), gguf_file=gguf_file, local_files_only=True, trust_remote_code=False)


def _is_generic(folder: Path) -> bool:
    """Whether a tokenizer is all in `tokenizer.json`. AutoTokenizer would build Qwen2's own beside a Qwen2 model, of another vocabulary."""
    stated = _read(folder / "tokenizer_config.json").get("tokenizer_class")
    return stated in ("PreTrainedTokenizerFast", "TokenizersBackend") and (folder / "tokenizer.json").is_file()


def mask_of_tokenizer(folder: Path) -> int | None:
    """The id of the mask token that the folder's tokenizer files name; None where they name none.

    The token is named in `tokenizer_config.json`. Its id may be in any of four files; where they differ, the last of these counts:
    `vocab.json`, `tokenizer.json`, `added_tokens.json`, `tokenizer_config.json`.
    """
    settings = _read(folder / "tokenizer_config.json")
    named = settings.get("mask_token")
    mask = text_in(named, "content") if isinstance(named, dict) else text_in(settings, "mask_token", str(folder / "tokenizer_config.json"))
    if mask is None:
        return None
    found = (
        _read(folder / "vocab.json").get(mask),
        _listed(_read(folder / "tokenizer.json"), mask, folder),
        _read(folder / "added_tokens.json").get(mask),
        _stated(settings, mask, folder),
    )
    ids = [whole_in({mask: one}, mask, f"a tokenizer file of {folder}") for one in found if one is not None]
    return ids[-1] if ids else None


def config_of(path: Path) -> dict[str, object]:
    """The fields of a `config.json`; where it states no mask token, that of the tokenizer files beside it.

    A config by another file name stands alone: tokenizer files beside it may be of another checkpoint.
    """
    config = read_json(path)
    if path.name == "config.json" and config.get("mask_token_id") is None and (mask := mask_of_tokenizer(path.parent)) is not None:
        config["mask_token_id"] = mask
    return config


def _read(path: Path) -> Config:
    return read_json(path) if path.is_file() else {}


def _listed(tokenizer: Config, mask: str, folder: Path) -> object:
    """The id of a token among the `added_tokens` of a `tokenizer.json`."""
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ValueError(f"{folder / 'tokenizer.json'}: added_tokens is no list of tokens; fetch it again, or pass tokenizer=None")
    return next((token.get("id") for token in reversed(added) if token.get("content") == mask), None)


def _stated(settings: Config, mask: str, folder: Path) -> object:
    """The id of a token in the `added_tokens_decoder` of a `tokenizer_config.json`, whose names are the ids as text."""
    decoder = object_in(settings, "added_tokens_decoder", str(folder / "tokenizer_config.json")) or {}
    named = [number for number, token in decoder.items() if isinstance(token, dict) and token.get("content") == mask]
    if named and not named[-1].isdecimal():
        raise ValueError(f"{folder / 'tokenizer_config.json'}: added_tokens_decoder names {named[-1]!r}, which is no token id")
    return int(named[-1]) if named else None
