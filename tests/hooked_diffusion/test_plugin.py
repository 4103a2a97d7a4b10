"""The package as a plugin of TransformerLens, in processes that never import it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.architectures import NATIVE, Qwen2ForMaskedDiffusion
from hooked_diffusion.checkpoints import save_checkpoint

ROOT = Path(__file__).parents[2]
FAMILIES = ("llama", "qwen2", "qwen3", "gpt2")
GROUP = "transformer_lens.architectures"
BOOT = """
import json, sys, warnings
import torch
from transformers import AutoModelForCausalLM

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    assert not [name for name in sys.modules if name.startswith(("hooked_diffusion", "mechshift_tl"))]
    tokens, found = torch.tensor([[3, 17, 5, 40, 8, 8, 1]]), {}
    with torch.no_grad():
        for folder in sys.argv[1:]:
            native = AutoModelForCausalLM.from_pretrained(folder)
            expected = native(input_ids=tokens, use_cache=False).logits
            try:
                booted = TransformerBridge.boot_transformers(folder, device="cpu")(tokens)
                name = type(native).__name__.replace("LMHeadModel", "").replace("ForCausalLM", "") + "ForMaskedDiffusion"
                built = build_bridge_from_module(native, name, hf_config=native.config)(tokens)
                found[folder] = [(bridge - expected).abs().max().item() for bridge in (booted, built)]
            except ValueError as error:
                found[folder] = str(error)
told = [str(warning.message) for warning in caught]
print(json.dumps({"found": found, "warned": [text for text in told if "adapter" in text or "ntry point" in text]}))
"""


def boot(folders: list[Path], *path: Path) -> dict[str, Any]:
    """What the script above prints for `folders`, with `path` in front of the interpreter's own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", BOOT, *map(str, folders)], env=environment, cwd=folders[0], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def entry_points() -> str:
    """The plugin's entry points, as pyproject.toml states them."""
    section = re.search(rf'\[project\.entry-points\."{GROUP}"\]\n(.*?)\n\n', (ROOT / "pyproject.toml").read_text(), re.S)
    assert section
    return f"[{GROUP}]\n" + section[1].replace('"', "") + "\n"


def test_where_it_is_installed_transformer_lens_opens_native_folders_right(
    native: Callable[..., Any], word_tokenizer: Any, install: Callable[..., Path], entry_points: str, tmp_path: Path
) -> None:
    sources = {f"hooked_diffusion/{p.relative_to(ROOT / 'hooked_diffusion')}": p for p in (ROOT / "hooked_diffusion").rglob("*.py")}
    site = install(tmp_path / "site", "mechshift-tl", {name: path.read_text() for name, path in sources.items()}, entry_points)
    specs = {family: DiffusionSpec("full", 1, 2) for family in FAMILIES} | {"llama, causal": DiffusionSpec()}
    folders = [save_checkpoint(native(name.split(",")[0]), tmp_path / name, spec, word_tokenizer) for name, spec in specs.items()]
    block = save_checkpoint(native("qwen3"), tmp_path / "block", DiffusionSpec("block", 0, 2, block_length=4), word_tokenizer)
    told = boot([*folders, block], site)
    assert told["warned"] == []
    refused = told["found"].pop(str(block))
    assert "attends in blocks of 4" in refused and "HookedDiffusionTransformer.from_pretrained" in refused
    assert len(told["found"]) == len(specs)
    assert max(max(errors) for errors in told["found"].values()) < 1e-5, told["found"]


def test_the_entry_points_name_adapters_that_transformer_lens_does_not_own(entry_points: str) -> None:
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    stated = dict(line.split(" = ") for line in entry_points.splitlines()[1:])
    assert not set(stated) & set(SUPPORTED_ARCHITECTURES)
    assert set(NATIVE) <= set(SUPPORTED_ARCHITECTURES)
    assert stated["Qwen2ForMaskedDiffusion"] == f"hooked_diffusion.plugin:{Qwen2ForMaskedDiffusion.__name__}"
    assert len(stated) == len(NATIVE) == 4


def test_a_guarded_adapter_reads_what_the_config_says(native: Callable[..., Any]) -> None:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf

    for family, causal, masked in (("llama", None, False), ("llama", None, True), ("qwen3", False, False), ("gpt2", True, True)):
        model = native(family)
        if causal is not None:
            model.config.is_causal = causal
        adapter: Any = NATIVE[type(model).__name__]
        if masked:
            adapter = next(each for each in adapter.__subclasses__())
        made = adapter(build_bridge_config_from_hf(model.config, type(model).__name__, "tiny", torch.float32))
        made.prepare_model(model)
        expected = (not masked) if causal is None else causal
        assert made.component_mapping["blocks"].submodules["attn"].is_causal == model.config.is_causal == expected
        assert made.cfg.attention_dir == ("causal" if expected else "bidirectional")
