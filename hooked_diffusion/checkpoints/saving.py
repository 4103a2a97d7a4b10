"""Writing a native model and its spec, so that `from_pretrained`, here or in transformers, opens it with the same logits, bit for bit.

Attention is the exception, where transformers cannot read it from a config: block-causal attention is kept by `DiffusionSpec` alone, and
transformers 4.52 does not read `is_causal` either. There, pass the mask with every call.

Otherwise the folder serves transformers 4.52 as well as 5: RoPE's base and scaling, the dtype and the tokenizer's class stand in the files
under the names of both.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion.checkpoints.fields import Config, object_in
from hooked_diffusion.checkpoints.files import read_json
from hooked_diffusion.checkpoints.loading import LoadedCheckpoint, open_checkpoint
from hooked_diffusion.spec import DiffusionSpec

#: The files of a checkpoint that are never replaced unasked: its config, and weights of any kind.
OF_A_CHECKPOINT = ("config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")


def save_checkpoint(
    hf_model: PreTrainedModel,
    folder: str | Path,
    spec: DiffusionSpec,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write `config.json` (with `is_causal` and `diffusion_spec`), `model.safetensors` and the tokenizer's files, if one is given.

    Files are completed beside `folder` and moved in, so weights that are mapped from it stay intact. Returns the folder.

    Raises ValueError when `folder` holds a checkpoint and `overwrite` is false, and when a bridge wraps the model: wrapping renames its
    keys.
    """
    if any("_original_component" in key for key in hf_model.state_dict()):
        raise ValueError(
            "save_checkpoint takes a native model as it was before HookedDiffusionTransformer wrapped it; load or copy it again"
        )
    folder = Path(folder)
    replaced = _to_replace(folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the folder, so on its file system: moving a file there is a rename, and needs no second copy.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        partial = Path(name)
        hf_model.save_pretrained(partial)
        config = _config_for_both(read_json(partial / "config.json"))
        config |= {"is_causal": spec.attention == "causal", "diffusion_spec": spec.to_dict()}
        _write_json(partial / "config.json", config)
        (partial / "generation_config.json").unlink(missing_ok=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
            _tokenizer_for_both(partial / "tokenizer_config.json")
        written = {path.name for path in partial.iterdir()}
        for path in partial.iterdir():
            os.replace(path, folder / path.name)
    # After the new files are in place: a run that is stopped before leaves files too many, but none too few.
    for path in replaced:
        if path.name not in written:  # shards of the old weights would be read instead of the new
            path.unlink(missing_ok=True)
    return folder


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    family: str | None = None,
    revision: str | None = None,
    config: Config | None = None,
    dtype: torch.dtype | str | None = None,
    overwrite: bool = False,
) -> LoadedCheckpoint:
    """Open a checkpoint and write it as a native folder: safetensors, config, spec, and its tokenizer if it has one.

    Settings and errors are those of `load_checkpoint` and `save_checkpoint`. All weights pass through memory. Returns what was written.
    """
    # Before the source is read, which can take minutes.
    _to_replace(Path(folder), overwrite)
    opened = open_checkpoint(source, family=family, revision=revision, config=config)
    loaded = opened.load(tokenizer="auto" if opened.reader.tokenizer_at else None, dtype=dtype)
    save_checkpoint(loaded.hf_model, folder, loaded.spec, loaded.tokenizer, overwrite=overwrite)
    return loaded


def _to_replace(folder: Path, overwrite: bool) -> list[Path]:
    """The files of a checkpoint that `folder` holds already. Raises ValueError where there are some, and nobody asked to replace them."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a new folder for the checkpoint")
    held = sorted({path for pattern in OF_A_CHECKPOINT for path in folder.glob(pattern)})
    if held and not overwrite:
        raise ValueError(f"{folder} holds a checkpoint already ({held[0].name}); name another folder, or pass overwrite=True to replace it")
    return held


def _config_for_both(config: dict[str, object]) -> dict[str, object]:
    """A config of transformers 5 with the fields that 4.52 reads instead: it would silently take a RoPE base of 10000 without them."""
    config.pop("_name_or_path", None)
    rope = dict(object_in(config, "rope_parameters") or {})
    if "rope_theta" in rope:
        config["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope
    if config.get("dtype") is not None:
        config["torch_dtype"] = config["dtype"]
    return config


def _tokenizer_for_both(path: Path) -> None:
    """Change a tokenizer's config so that transformers 4.52 finds its class and its special tokens, too; 5 reads both spellings."""
    if not path.is_file():
        return
    settings = read_json(path)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    for how_it_was_loaded in ("is_local", "local_files_only"):
        settings.pop(how_it_was_loaded, None)
    _write_json(path, settings)


def _write_json(path: Path, values: Config) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
