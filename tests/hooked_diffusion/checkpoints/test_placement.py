"""Where weights go while they load: device maps, `.bin` files, and how much memory it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.checkpoints import load_checkpoint, save_checkpoint
from hooked_diffusion.checkpoints.placement import Placement, main_device

TOKENS = torch.tensor([[3, 17, 5, 40, 8, 8, 1], [0, 9, 30, 2, 22, 47, 11]])
MDM = DiffusionSpec("full", 1, 2)
Native = Callable[..., Any]
LLAMA_MAP = {
    "model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "disk", "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}  # fmt: skip
GPT2_MAP = {"transformer.wte": "cpu", "transformer.wpe": "disk", "transformer.h": "disk", "transformer.ln_f": "cpu", "lm_head": "cpu"}


@pytest.fixture(params=["llama", "qwen3", "gpt2"])
def folder(request: pytest.FixtureRequest, native: Native, tmp_path: Path) -> Path:
    return save_checkpoint(native(request.param), tmp_path / request.param, MDM)


@torch.no_grad()
def test_a_map_over_cpu_and_disk_changes_no_logit(folder: Path) -> None:
    placed = GPT2_MAP if folder.name == "gpt2" else LLAMA_MAP
    model = HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None, device_map=placed)
    plain = HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None)
    weights = model.original_model.state_dict()
    assert any(tensor.is_meta for tensor in weights.values()) and not all(tensor.is_meta for tensor in weights.values())
    logits, cache = model.run_with_cache(TOKENS)
    expected, expected_cache = plain.run_with_cache(TOKENS)
    assert torch.equal(logits, expected)
    assert set(cache.keys()) == set(expected_cache.keys())
    assert all(torch.equal(cache[name], expected_cache[name]) for name in ("blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"))
    assert {str(tensor.device) for tensor in (logits, cache["blocks.1.attn.hook_z"])} == {"cpu"}


@pytest.mark.parametrize("device_map", ["auto", "balanced", "sequential", "cpu", {"": "cpu"}, {"": "disk"}])
@torch.no_grad()
def test_every_kind_of_map_gives_the_same_logits(native: Native, tmp_path: Path, device_map: Any) -> None:
    folder = save_checkpoint(native("llama"), tmp_path / "model", MDM)
    mapped = HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None, device_map=device_map, dtype="float64")
    plain = HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None, dtype="float64")
    torch.testing.assert_close(mapped(TOKENS).cpu(), plain(TOKENS), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("embedding", "head"), [("disk", "disk"), ("disk", "cpu"), ("cpu", "disk")])
@torch.no_grad()
def test_a_tied_head_lies_where_the_embedding_does(native: Native, tmp_path: Path, embedding: str, head: str) -> None:
    folder = save_checkpoint(native("llama", tie_word_embeddings=True), tmp_path / "model", MDM)
    placed = LLAMA_MAP | {"model.embed_tokens": embedding, "lm_head": head}
    mapped = HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None, device_map=placed)
    assert torch.equal(mapped(TOKENS), HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None)(TOKENS))
    assert [weight.is_meta for weight in (mapped.W_E, mapped.W_U)] == [embedding == head == "disk"] * 2


def test_tokens_go_where_an_embedding_kept_elsewhere_runs() -> None:
    assert [main_device(modules) for modules in ({"a": "disk", "b": 1, "c": 0}, {"a": "cpu", "b": "disk"})] == [1, "cpu"]
    both = Placement({"model": 0, "lm_head": 1}).tied("model.embed.weight", "lm_head.weight")
    assert (both["model.embed.weight"], both["lm_head.weight"], both["model.norm.weight"]) == (0, 0, 0)


def test_maps_that_cannot_be(native: Native, tmp_path: Path) -> None:
    folder = save_checkpoint(native("llama"), tmp_path / "model", MDM)
    with pytest.raises(ValueError, match="both device='cpu' and device_map were given"):
        load_checkpoint(folder, tokenizer=None, device="cpu", device_map="auto")
    with pytest.raises(ValueError, match="device_map is 'chess'; say auto, balanced"):
        load_checkpoint(folder, tokenizer=None, device_map="chess")
    with pytest.raises(ValueError, match="lm_head.weight"):
        load_checkpoint(folder, tokenizer=None, device_map={"model": "cpu"})
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="leaves weights on disk, which needs safetensors; `mechshift convert`"):
        load_checkpoint(folder, tokenizer=None, device_map=LLAMA_MAP)


def test_a_weight_goes_where_the_longest_name_says() -> None:
    place = Placement({"model": "cpu", "model.layers.1": "disk", "lm_head": "meta"})
    names = ("model.layers.1.mlp.weight", "model.layers.10.mlp.weight", "lm_head.weight")
    assert [place[name] for name in names] == [
        "disk",
        "cpu",
        "meta",
    ]
    assert (place.whole, Placement.of(None).whole) == (None, torch.device("cpu"))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_bin_files_are_read_for_their_tensors(native: Native, tmp_path: Path, sharded: bool, legacy: bool) -> None:
    model = native("qwen2")
    model.config.save_pretrained(tmp_path)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)] if sharded else ["pytorch_model.bin"]
    index = {key: names[i % len(names)] for i, key in enumerate(weights)}
    for name in names:
        shard = {key: weights[key] for key in weights if index[key] == name}
        torch.save(shard, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    if sharded:
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    loaded = load_checkpoint(tmp_path, tokenizer=None)
    assert all(torch.equal(loaded.hf_model.state_dict()[key], tensor) for key, tensor in weights.items())
    halved = load_checkpoint(tmp_path, tokenizer=None, dtype="bfloat16").hf_model.state_dict()
    assert all(torch.equal(halved[key], tensor.bfloat16()) for key, tensor in weights.items())


class Evil:
    """What a pickle can do when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model.norm.weight": Evil()}, "holds more than tensors"),
        ([torch.ones(1)], "is no dictionary of tensors"),
        ({"epoch": 3}, "is no dictionary of tensors"),
    ],
)
def test_bin_files_that_hold_more_are_refused(native: Native, tmp_path: Path, content: Any, message: str) -> None:
    native("llama").config.save_pretrained(tmp_path)
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"pytorch_model.bin {message}"):
        load_checkpoint(tmp_path, tokenizer=None)


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_bin_file_cut_short_is_named(native: Native, tmp_path: Path, kept: int) -> None:
    model = native("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "pytorch_model.bin").write_bytes((tmp_path / "pytorch_model.bin").read_bytes()[:kept])
    with pytest.raises(ValueError, match="pytorch_model.bin (is not a whole torch file|holds more than tensors)"):
        load_checkpoint(tmp_path, tokenizer=None)


PEAK = """
import json, re, sys
from pathlib import Path
import torch
from hooked_diffusion import HookedDiffusionTransformer

def memory(field):  # of this process, in bytes
    return 1024 * int(re.search(rf"{field}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
folder, small, dtype = sys.argv[1:]
HookedDiffusionTransformer.from_pretrained(small, tokenizer=None, dtype=dtype or None)(torch.arange(4)[None])
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = memory("VmRSS")
model = HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None, dtype=dtype or None)
sizes = {parameter.data_ptr(): parameter.nbytes for parameter in model.original_model.parameters()}
print(json.dumps([memory("VmHWM") - before, sum(sizes.values())]))
"""


def peak_and_weights(native: Native, tmp_path: Path, family: str, stored: str, dtype: str, **shape: Any) -> tuple[int, int]:
    """Bytes of resident memory that loading takes at its peak, beyond what a tiny model took, and bytes of the weights."""
    large = save_checkpoint(native(family, **shape).to(getattr(torch, stored)), tmp_path / "large", MDM)
    small = save_checkpoint(native(family).to(getattr(torch, stored)), tmp_path / "small", MDM)
    command = [sys.executable, "-c", PEAK, str(large), str(small), dtype]
    run = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    peak, weights = json.loads(run.stdout.splitlines()[-1])
    assert weights > 80 * 2**20
    return peak, weights


LLAMA = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "head_dim": 128}
GPT2 = {"vocab_size": 8192, "n_embd": 512, "n_layer": 8}
MEASURED = [
    ("llama", "bfloat16", "float32", LLAMA),
    pytest.param("llama", "float32", "", LLAMA, marks=pytest.mark.slow),
    pytest.param("llama", "float32", "bfloat16", {**LLAMA, "num_hidden_layers": 12}, marks=pytest.mark.slow),
    pytest.param("gpt2", "float32", "", GPT2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("family", "stored", "dtype", "shape"), MEASURED)
def test_loading_takes_at_most_1_3_times_the_weights(
    native: Native, tmp_path: Path, family: str, stored: str, dtype: str, shape: dict[str, Any]
) -> None:
    peak, weights = peak_and_weights(native, tmp_path, family, stored, dtype, **shape)
    assert peak <= 1.3 * weights
