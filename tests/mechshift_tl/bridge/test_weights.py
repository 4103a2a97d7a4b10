"""Analyses of models that a device map spreads: the numbers of the same model in one place, whatever is kept where.

Run as a script, with a checkpoint's folder, this file compares them on two devices (`two_devices`) and prints the largest differences.
"""

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
from accelerate import cpu_offload
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.checkpoints import save_checkpoint
from hooked_diffusion.gradients import frozen
from mechshift_tl.attribution.attribute import attribute
from mechshift_tl.attribution.check import SUMMED
from mechshift_tl.bridge.weights import named_weights, refetch_in_backward, weight_of, weightless
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.evaluation.run import run_circuit
from mechshift_tl.evaluation.validity import validity
from mechshift_tl.interventions.replaced import writer_means
from mechshift_tl.readouts import Readouts
from mechshift_tl.runs.provenance import digest
from mechshift_tl.views.lens import component_lens
from mechshift_tl.views.neurons import neuron_activations

MDM = DiffusionSpec("full", 1, 2)
SETTINGS: dict[str, dict[str, Any]] = {
    "edges": {"ig_steps": 2},
    "edges, ungrouped": {"kv": "ungrouped", "ig_steps": 1, "metric": ["logit_diff", "kl"]},
    "edges, activations": {"method": "EAP-IG-activations", "ig_steps": 1},
    "edges, exact": {"method": "exact", "kv": "ungrouped"},
    "nodes": {"level": "nodes", "ig_steps": 1},
    "neurons": {"level": "neurons", "ig_steps": 1},
}


def rows() -> Readouts:
    """Four examples of two groups, 6 tokens each, of which the last three tell clean from corrupt."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(3, 48, (2, 4, 6), generator=generator)
    corrupt[:, :3] = clean[:, :3]  # tokens that a path under causal attention leaves alone
    answers, foils = torch.randint(3, 48, (2, 4), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.tensor([5, 5, 4, 3]), answers, foils, groups=("x", "y", "x", "y"))


def analyses(model: Any) -> dict[str, Tensor]:
    """The numbers of every analysis."""
    made, means, found = rows(), writer_means(model, rows()), {}
    for name, settings in SETTINGS.items():
        scores = attribute(model, made, **settings)
        found[name] = scores["kl"].matrix if isinstance(scores, dict) else scores.matrix
        if name.startswith("edges"):
            circuit = Circuit.from_scores(scores["kl"] if isinstance(scores, dict) else scores, 40)
            found[f"{name}, circuit"] = run_circuit(model, made, circuit).circuit.metric
            found[f"{name}, circuit, mean"] = run_circuit(model, made, circuit, intervention="mean", means=means).circuit.metric
    found |= {name: getattr(means, name) for name in ("input", "z", "mlp")}
    for norm in ("run", "own"):
        lens = component_lens(model, made, norm=norm)
        found |= {f"lens, {norm}, {name}": getattr(lens, name) for name in ("answer", "foil", "entropy")}
    found["neuron activations"] = neuron_activations(model, made, 1, shuffles=20).means
    held = validity(model, made, n_top=4, n_random=4, methods={"EAP": {"method": "EAP"}}, rank_by="EAP", n_boot=2)
    return found | {"validity": held.approximate, "validity, exact": held.exact}


def opened(folder: Path, **placed: Any) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None, **placed)


def layers(*devices: Any) -> dict[str, Any]:
    """A Llama's map: embedding, each layer, then norm and head."""
    first, *inner, last = devices
    ends = {"model.embed_tokens": first, "model.rotary_emb": first, "model.norm": last, "lm_head": last}
    return ends | {f"model.layers.{i}": device for i, device in enumerate(inner)}


GPT2_MAP = {"transformer.wte": "cpu", "transformer.wpe": "disk", "transformer.h": "disk", "transformer.ln_f": "disk", "lm_head": "cpu"}
CASES = [
    pytest.param("qwen3", {"tie_word_embeddings": True}, {"": "disk"}, id="everything on disk, head tied"),
    pytest.param("gpt2", {}, GPT2_MAP, id="LayerNorm and fused q, k, v"),
    pytest.param("qwen2", {}, layers("cpu", "disk", "cpu", "disk"), id="biases, layers on CPU and disk", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("family", "config", "placed"), CASES)
def test_weights_on_disk_change_no_number(
    native: Callable[..., Any], tmp_path: Path, family: str, config: dict[str, Any], placed: dict[str, Any]
) -> None:
    folder = save_checkpoint(native(family, **config), tmp_path / "model", MDM if family == "qwen3" else DiffusionSpec())
    plain, mapped = opened(folder), opened(folder, device_map=placed)
    assert any(parameter.is_meta for parameter in mapped.parameters())
    expected, found = analyses(plain), analyses(mapped)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert any(parameter.is_meta for parameter in mapped.parameters())


def test_weights_in_cpu_memory_change_no_number_of_a_plain_bridge(native: Callable[..., Any]) -> None:
    expected, found = (analyses(_plain_bridge(native("qwen2"), offloaded)) for offloaded in (False, True))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def _plain_bridge(hf_model: Any, offloaded: bool) -> Any:
    hf_model.config.use_cache = False
    if offloaded:
        cpu_offload(hf_model, torch.device("cpu"))
    name, config = type(hf_model).__name__, hf_model.config
    return build_bridge_from_module(hf_model, name, hf_config=config, tokenizer=None, model_name="plain", device="cpu")


def test_a_weight_is_fetched_and_let_go_of(native: Callable[..., Any], tmp_path: Path) -> None:
    folder = save_checkpoint(native(), tmp_path / "model", MDM)
    plain, mapped = opened(folder), opened(folder, device_map={"": "disk"})
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        assert torch.equal(weight_of(mapped.blocks[1].attn, name), getattr(plain.blocks[1].attn, name))
    assert torch.equal(weight_of(mapped.unembed, "W_U"), plain.W_U)
    assert all(parameter.is_meta for parameter in mapped.parameters())
    in_memory = plain.blocks[0].attn.W_O
    assert weight_of(plain.blocks[0].attn, "W_O").data_ptr() == in_memory.data_ptr()


def test_a_weight_read_while_its_module_runs_stays_there(native: Callable[..., Any], tmp_path: Path) -> None:
    folder = save_checkpoint(native(), tmp_path / "model", MDM)
    plain, mapped = opened(folder), opened(folder, device_map={"": "disk"})
    tokens, read = torch.arange(3, 9)[None], []
    hooks = [
        ("blocks.0.attn.hook_z", lambda z, hook: read.append(weight_of(mapped.blocks[0].attn, "W_O"))),
        ("blocks.0.ln1.hook_in", lambda x, hook: read.append(weight_of(mapped.blocks[0].ln1, "weight"))),
    ]
    with torch.no_grad():
        assert torch.equal(mapped.run_with_hooks(tokens, fwd_hooks=hooks), plain(tokens))
    assert len(read) == 2 and not any(weight.is_meta for weight in read)


@pytest.mark.parametrize("tied", [False, True])
def test_a_digest_is_that_of_the_bytes_wherever_they_are(native: Callable[..., Any], tmp_path: Path, tied: bool) -> None:
    folders = [save_checkpoint(native(seed=seed, tie_word_embeddings=tied), tmp_path / str(seed), MDM) for seed in (0, 1)]
    mapped = [digest(named_weights(opened(folder, device_map={"": "disk"}))) for folder in folders]
    assert mapped == [digest(named_weights(opened(folder))) for folder in folders]
    assert mapped[0] != mapped[1]


def test_a_model_on_disk_is_no_weightless_one(native: Callable[..., Any], tmp_path: Path) -> None:
    mapped = opened(save_checkpoint(native(), tmp_path / "model", MDM), device_map={"": "disk"})
    assert not weightless(mapped)
    attribute(mapped, rows(), method="EAP")
    assert mapped in SUMMED
    assert weightless(_plain_bridge(native().to("meta"), offloaded=False))


def test_what_takes_gradients_is_remembered_by_name(native: Callable[..., Any], tmp_path: Path) -> None:
    mapped = opened(save_checkpoint(native(), tmp_path / "model", MDM), device_map=layers("disk", "disk", "cpu", "cpu"))
    wanted = {}
    for i, (name, parameter) in enumerate(mapped.named_parameters()):
        wanted[name] = bool(i % 2)
        parameter.requires_grad_(wanted[name])
    with frozen(mapped):
        mapped(torch.arange(3, 9)[None])
        assert not any(parameter.requires_grad for parameter in mapped.parameters())
    assert {name: parameter.requires_grad for name, parameter in mapped.named_parameters()} == wanted


def test_autograd_keeps_no_fetched_weight(native: Callable[..., Any], tmp_path: Path) -> None:
    """What a forward leaves behind for its backward, with and without `lean`; the gradients are the same."""
    folder = save_checkpoint(native("gpt2"), tmp_path / "model", MDM)
    mapped, plain = opened(folder, device_map={"": "disk"}), opened(folder)
    embeddings = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for model in (plain, mapped):
        start = embeddings.clone().requires_grad_()
        with (
            frozen(model),
            refetch_in_backward(model),
            model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook, start=start: start)]),
        ):
            logits = model(torch.arange(12).view(2, 6))
        gradients.append(torch.autograd.grad(logits.square().sum(), start)[0])
    assert torch.equal(*gradients)


KEPT = """
import re, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_placement import attribute, opened, rows

def memory(field):  # of this process, in bytes
    return 1024 * int(re.search(rf"{field}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
small, large = sys.argv[2:]
attribute(opened(small, device_map={"": "disk"}), rows(), ig_steps=1)
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = memory("VmRSS")
attribute(opened(large, device_map={"": "disk"}), rows(), ig_steps=1)
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
def test_an_attribution_never_holds_the_weights_that_are_on_disk(native: Callable[..., Any], tmp_path: Path) -> None:
    large = native(vocab_size=2048, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, head_dim=64)
    weights = sum(parameter.nbytes for parameter in large.parameters())
    folders = [save_checkpoint(model, tmp_path / name, MDM) for name, model in (("small", native()), ("large", large))]
    run = _python("-c", KEPT, Path(__file__).parent, *folders)
    assert int(run.splitlines()[-1]) < weights / 3


def test_layers_on_two_devices_change_no_number(native: Callable[..., Any], tmp_path: Path) -> None:
    folder = save_checkpoint(native("qwen2"), tmp_path / "model", DiffusionSpec())
    differences = json.loads(_python(__file__, folder).splitlines()[-1])
    assert len(differences) > 20
    assert {name: difference for name, difference in differences.items() if difference > 1e-5} == {}


def _python(*arguments: Any) -> str:
    """What a process of its own prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def main(folder: Path) -> dict[str, float]:
    """Largest difference in each analysis between one device and two, as a share of the largest number; every other layer is elsewhere."""
    import two_devices  # lies beside this file

    library = two_devices.register()
    here, elsewhere = torch.device("cpu"), torch.device(two_devices.ELSEWHERE)
    expected = analyses(opened(folder))
    found = analyses(opened(folder, device_map=layers(here, elsewhere, here, elsewhere)))
    del library
    return {name: float((found[name] - one).abs().max() / one.abs().max()) for name, one in expected.items()}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
