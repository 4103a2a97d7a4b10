"""The how-to's example as printed, registered by hand and by an installed distribution."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.checkpoints import CheckpointAdapter, families, load_checkpoint, register_adapter, registry
from hooked_diffusion.checkpoints.llama import LLAMA

HOW_TO = (Path(__file__).parents[3] / "docs" / "new_family.md").read_text()
OPENS = """
import sys, torch
from hooked_diffusion import HookedDiffusionTransformer
from hooked_diffusion.checkpoints import families
model = HookedDiffusionTransformer.from_pretrained(sys.argv[1], tokenizer=None)
torch.save((families(), model.source["family"], model(torch.arange(40)[None] % 7).detach()), sys.argv[2])
"""


@pytest.fixture(scope="module")
def printed() -> str:
    found = re.search(r"```python\n(from transformers.*?)```", HOW_TO, re.S)
    assert found and len(found[1].splitlines()) < 60
    return found[1]


@pytest.fixture
def minnow(native: Callable[..., Any], tmp_path: Path) -> tuple[Path, Any]:
    """A checkpoint of the made-up family, and the native model that it is."""
    model = native("qwen2")
    config = model.config.to_dict() | {"model_type": "minnow", "architectures": ["MinnowModel"], "mask_token_id": 47, "training_steps": 9}
    config |= {"dim": config.pop("hidden_size"), "depth": config.pop("num_hidden_layers"), "block_size": 16}
    folder = tmp_path / "minnow"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, default=str))
    moved = (("model.embed_tokens", "tokens"), ("lm_head", "head"), ("model.layers", "stack"), ("model.norm", "norm"))
    tensors = {"stack.0.mask_cache": torch.ones(4)}
    for key, tensor in model.state_dict().items():
        old, new = next(pair for pair in moved if key.startswith(pair[0]))
        tensors[key.replace(old, new)] = tensor.clone()
    save_file(tensors, folder / "model.safetensors")
    return folder, model


def test_the_example_runs_as_printed(printed: str, minnow: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ADAPTERS", dict(registry._ADAPTERS))
    folder, model = minnow
    with pytest.raises(ValueError, match="model_type 'minnow'.*fits no known family"):
        load_checkpoint(folder, tokenizer=None)
    namespace: dict[str, Any] = {}
    exec(compile(printed, "docs/new_family.md", "exec"), namespace)
    register_adapter(namespace["MINNOW"])
    loaded = load_checkpoint(folder, tokenizer=None)
    assert loaded.spec == DiffusionSpec("block", 0, 47, bos="none", block_length=16)
    assert all(torch.equal(loaded.hf_model.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def test_an_installed_distribution_brings_its_family(
    printed: str, minnow: tuple[Path, Any], install: Callable[..., Path], tmp_path: Path
) -> None:
    stated = re.search(r'```toml\n\[project\.entry-points\."(.+?)"\]\n(.+?)```', HOW_TO, re.S)
    assert stated
    points = f"[{stated[1]}]\n{stated[2].replace(chr(34), '')}"
    site = install(tmp_path / "site", "minnow", {"minnow.py": printed}, points)
    path = os.pathsep.join([str(site), str(Path(__file__).parents[3])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning:hooked_diffusion", "-c", OPENS, str(minnow[0]), str(tmp_path / "told.pt")]
    subprocess.run(command, env=environment, check=True, cwd=tmp_path)
    known, family, logits = torch.load(tmp_path / "told.pt", weights_only=True)
    assert "minnow" in known and "llama" in known and family == "minnow"
    blocks = torch.arange(40) // 16
    mask = (blocks[None, :] <= blocks[:, None])[None, None]
    with torch.no_grad():
        expected = minnow[1](torch.arange(40)[None] % 7, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nowhere:MINE", "the checkpoint family 'mine' of an unknown distribution is left out: No module named 'nowhere'"),
        ("json:dumps", "json:dumps is a function, not a CheckpointAdapter"),
        ("hooked_diffusion.checkpoints.llama:LLAMA", ""),
        ("taken:ADAPTER", "a checkpoint family named 'llama' is registered already"),
    ],
)
def test_an_entry_point_that_does_not_work_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    monkeypatch.setattr(registry, "_ADAPTERS", dict(registry._ADAPTERS))
    monkeypatch.setattr(registry, "_LOADED", set())
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("mine", value, group)])
    taken = type(sys)("taken")
    taken.__dict__["ADAPTER"] = CheckpointAdapter("llama", LLAMA.model_class, (), (), LLAMA.read_spec, "none")
    monkeypatch.setitem(sys.modules, "taken", taken)
    before = sorted(registry._ADAPTERS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert families() == families() == before
    assert [str(warning.message) for warning in caught if said] == [str(warning.message) for warning in caught]
    assert len(caught) == bool(said) and all(said in str(warning.message) for warning in caught)
