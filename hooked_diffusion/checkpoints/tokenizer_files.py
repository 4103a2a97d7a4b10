"""The tokenizer files of a checkpoint's folder: whether there are any, which mask token they name, and how they are loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hooked_diffusion.checkpoints.boundary import reading
from hooked_diffusion.checkpoints.fields import Config, object_in, shown, text_in, whole_in
from hooked_diffusion.checkpoints.files import MIB, MOST_CONFIG, read_json

#: Any of these holds a vocabulary, or says which tokenizer it is.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")
MOST_TOKENIZER = 64 * MIB
#: Of a regular expression, letters; of normalizers, how often they may double a text and more; of JSON, levels that are looked into.
MOST_PATTERN, MOST_GROWTH, MOST_DEPTH = 10_000, 1024.0, 64
#: A group that ends with a repetition and is itself repeated without end, such as (a+)+ or (?:a*b*)*.
NESTED = re.compile(r"[+*}]\??\)(?:[+*]|\{\d*,)")


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds the files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def load_tokenizer(
    folder: Path, gguf_file: str | None = None, native: type[PreTrainedTokenizerBase] | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, or of a GGUF file in it, as the class `native`, or as its own files say. Runs no remote code."""
    kind = native or (PreTrainedTokenizerFast if _is_generic(folder) else AutoTokenizer)
    remedy = "fetch its files again, or pass tokenizer=None to work on token ids"
    if gguf_file is not None:
        with reading(f"the tokenizer in {folder / gguf_file} cannot be loaded", remedy):
            return _tried(kind.from_pretrained(str(folder), gguf_file=gguf_file, local_files_only=True, trust_remote_code=False))
    check_tokenizer_files(folder)
    with reading(f"the tokenizer in {folder} cannot be loaded", remedy):
        return _tried(kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False))


def _tried(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, once it has tokenised a letter and named its vocabulary: some settings are not looked at before."""
    tokenizer.decode(tokenizer.encode("a", add_special_tokens=True))
    if not tokenizer.get_vocab():
        raise ValueError("its vocabulary is empty")
    return tokenizer


def check_tokenizer_files(folder: Path) -> None:
    """Refuse tokenizer files that would take all memory or time when they are loaded.

    That is a file of more than 64 MiB, and in `tokenizer.json` a regular expression that repeats a repetition, which can take for ever on a
    short text, or normalizers that make a text many times longer. Raises ValueError naming file and pattern.
    """
    for name in (*TOKENIZER_FILES, "merges.txt", "added_tokens.json", "special_tokens_map.json"):
        path = folder / name
        if path.is_file() and path.stat().st_size > MOST_TOKENIZER:
            raise ValueError(f"{path} has {path.stat().st_size / MIB:.0f} MiB; the largest tokenizers have 33: pass tokenizer=None")
    whole = _read(folder / "tokenizer.json")
    remedy = "pass tokenizer=None to work on token ids, or a tokenizer of your own"
    for pattern in _patterns(whole):
        if len(pattern) > MOST_PATTERN or NESTED.search(pattern):
            raise ValueError(f"{folder / 'tokenizer.json'} holds the pattern {shown(pattern)}, which may take for ever on a text; {remedy}")
    if (growth := _growth(whole.get("normalizer"))) > MOST_GROWTH:
        raise ValueError(f"{folder / 'tokenizer.json'} has normalizers that make a text {growth:.0g} times as long; {remedy}")


def _patterns(part: object, depth: int = 0) -> Iterator[str]:
    """The regular expressions in normalizers, pre-tokenizers and decoders."""
    if depth > MOST_DEPTH:
        return
    if isinstance(part, dict):
        if isinstance(pattern := part.get("Regex"), str):
            yield pattern
        # Without the vocabulary, which is large and holds no patterns.
        for name in part.keys() - {"model", "added_tokens"}:
            yield from _patterns(part[name], depth + 1)
    elif isinstance(part, list):
        for one in part:
            yield from _patterns(one, depth + 1)


def _growth(part: object, depth: int = 0) -> float:
    """How many times longer the replacements of a normalizer can make a text."""
    if not isinstance(part, dict) or depth > MOST_DEPTH:
        return 1.0
    if isinstance(steps := part.get("normalizers"), list):
        # Steps multiply. Each is capped, so that the product cannot overflow.
        return prod(min(_growth(step, depth + 1), MOST_GROWTH * 2) for step in steps[:MOST_DEPTH])
    pattern, content = part.get("pattern"), part.get("content")
    if part.get("type") != "Replace" or not isinstance(content, str):
        return 1.0
    replaced = pattern.get("String") if isinstance(pattern, dict) else None
    return max(1.0, len(content) / max(1, len(replaced) if isinstance(replaced, str) else 1))


def _is_generic(folder: Path) -> bool:
    """Whether `tokenizer.json` is the whole tokenizer. Beside a Qwen2 model, AutoTokenizer would build Qwen2's, of another vocabulary."""
    stated = _read(folder / "tokenizer_config.json").get("tokenizer_class")
    return stated in ("PreTrainedTokenizerFast", "TokenizersBackend") and (folder / "tokenizer.json").is_file()


def mask_of_tokenizer(folder: Path) -> int | None:
    """The id of the mask token that the folder's tokenizer files name; None where they name none.

    The token is named in `tokenizer_config.json`. Its id may be in any of four files; where they differ, the first of these counts:
    `tokenizer_config.json`, `added_tokens.json`, `tokenizer.json`, `vocab.json`. None is read that need not be: they can be large.
    """
    settings = _read(folder / "tokenizer_config.json")
    named = settings.get("mask_token")
    mask = text_in(named, "content") if isinstance(named, dict) else text_in(settings, "mask_token", str(folder / "tokenizer_config.json"))
    if mask is None:
        return None
    sources: tuple[Callable[[], object], ...] = (
        lambda: _stated(settings, mask, folder),
        lambda: _read(folder / "added_tokens.json").get(mask),
        lambda: _listed(_read(folder / "tokenizer.json"), mask, folder),
        lambda: _read(folder / "vocab.json").get(mask),
    )
    found = next((one for source in sources if (one := source()) is not None), None)
    return whole_in({mask: found}, mask, f"a tokenizer file of {folder}")


def config_of(path: Path) -> dict[str, object]:
    """The fields of a `config.json`; where it states no mask token, that of the tokenizer files beside it.

    A config by another file name stands alone: tokenizer files beside it may be of another checkpoint.
    """
    config = read_json(path, MOST_CONFIG)
    if path.name == "config.json" and config.get("mask_token_id") is None and (mask := mask_of_tokenizer(path.parent)) is not None:
        config["mask_token_id"] = mask
    return config


def _read(path: Path) -> Config:
    return read_json(path, MOST_TOKENIZER) if path.is_file() else {}


def _listed(tokenizer: Config, mask: str, folder: Path) -> object:
    """The id of a token among the `added_tokens` of a `tokenizer.json`."""
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ValueError(f"{folder / 'tokenizer.json'}: added_tokens is no list of tokens; fetch it again, or pass tokenizer=None")
    # The last entry counts where a token stands twice.
    return next((token.get("id") for token in reversed(added) if token.get("content") == mask), None)


def _stated(settings: Config, mask: str, folder: Path) -> object:
    """The id of a token in the `added_tokens_decoder` of a `tokenizer_config.json`, whose names are the ids as text."""
    decoder = object_in(settings, "added_tokens_decoder", str(folder / "tokenizer_config.json")) or {}
    named = [number for number, token in decoder.items() if isinstance(token, dict) and token.get("content") == mask]
    if named and not named[-1].isdecimal():
        raise ValueError(f"{folder / 'tokenizer_config.json'}: added_tokens_decoder names {named[-1]!r}, which is no token id")
    return int(named[-1]) if named else None
