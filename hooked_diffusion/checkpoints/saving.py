"""Writing a native model and its spec, so that `from_pretrained`, here or in transformers, opens it with the same logits, bit for bit.

Block-causal attention is the exception. `DiffusionSpec` keeps it, but transformers cannot read it from a config: there, pass the mask with
every call.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion.checkpoints.fields import Config
from hooked_diffusion.checkpoints.files import read_json
from hooked_diffusion.checkpoints.loading import LoadedCheckpoint, open_checkpoint
from hooked_diffusion.spec import DiffusionSpec


def save_checkpoint(
    hf_model: PreTrainedModel, folder: str | Path, spec: DiffusionSpec, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """Write `config.json` (with `is_causal` and `diffusion_spec`), `model.safetensors` and the tokenizer's files, if one is given.

    Files are completed beside `folder` and moved in, so weights that are mapped from it stay intact. Returns the folder. Raises ValueError
    when a bridge wraps the model: wrapping renames its keys.
    """
    if any("_original_component" in key for key in hf_model.state_dict()):
        raise ValueError(
            "save_checkpoint takes a native model as it was before HookedDiffusionTransformer wrapped it; load or copy it again"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as partial:
        hf_model.save_pretrained(partial)
        config = read_json(Path(partial, "config.json"))
        config.pop("_name_or_path", None)
        config |= {"is_causal": spec.attention == "causal", "diffusion_spec": spec.to_dict()}
        Path(partial, "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        Path(partial, "generation_config.json").unlink(missing_ok=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        for path in Path(partial).iterdir():
            os.replace(path, folder / path.name)
    return folder


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    family: str | None = None,
    revision: str | None = None,
    config: Config | None = None,
    dtype: torch.dtype | str | None = None,
) -> LoadedCheckpoint:
    """Open a checkpoint and write it as a native folder: safetensors, config, spec, and its tokenizer if it has one.

    Settings and errors are those of `load_checkpoint`. All weights pass through memory. Returns what was written.
    """
    opened = open_checkpoint(source, family=family, revision=revision, config=config)
    loaded = opened.load(tokenizer="auto" if opened.reader.tokenizer_at else None, dtype=dtype)
    save_checkpoint(loaded.hf_model, folder, loaded.spec, loaded.tokenizer)
    return loaded
