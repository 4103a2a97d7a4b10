"""Plans against what attribution really takes on small models, and against arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config
from typer.testing import CliRunner

from benchmarks.measure import peak_bytes
from benchmarks.sizes import Size, hooked, native, prompts
from hooked_diffusion.pairs.known import KNOWN_PAIRS
from mechshift_tl import attribute, cli
from mechshift_tl.planning.dry_run import dry_run, weightless
from mechshift_tl.planning.estimate import Workload, plan, workload_of
from mechshift_tl.planning.shapes import find_shape
from mechshift_tl.tasks import IOI

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SMALL, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, num_key_value_heads=2, tie_word_embeddings=False),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}
SIZES = [
    (Size(2, 64, 4, 2, prompts=3, tokens=9, ig_steps=1), "float32"),
    (Size(2, 64, 4, 2, prompts=3, tokens=9, ig_steps=1), "bfloat16"),
    (Size(2, 64, 8, 8, prompts=8, tokens=33, ig_steps=2), "float32"),
    (Size(1, 128, 4, 4, prompts=4, tokens=9, ig_steps=3, vocab=20_000), "float32"),
]


@pytest.mark.parametrize("size, dtype", SIZES)
def test_operations_and_peak_memory_are_the_real_run_s(size: Size, dtype: str) -> None:
    model, rows = native(size).to(getattr(torch, dtype)), prompts(size)
    rows = replace(rows, corrupt=(rows.clean + 1) % size.vocab)  # no token is left out of the scores, as none is in a plan
    real = hooked(model)
    settings: dict[str, Any] = {"ig_steps": size.ig_steps, "batch_tokens": size.prompts * size.tokens}
    attribute(real, rows, **settings)  # what is looked at once per model is no part of the plan
    with FlopCounterMode(display=False) as counted:
        attribute(real, rows, **settings)
    work = Workload(size.prompts, size.prompts, size.tokens)
    made = plan(model.config, work, ig_steps=size.ig_steps, batches=[size.prompts], dtypes=[dtype])
    assert made.flops == pytest.approx(counted.get_total_flops(), rel=1e-6)
    assert made.memory[0].peak == pytest.approx(peak_bytes(lambda: attribute(real, rows, **settings)), rel=0.2)
    assert made.memory[0].weights == sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.mark.parametrize("family", CONFIGS)
def test_every_native_family_is_planned(family: str) -> None:
    made = plan(CONFIGS[family], Workload(2, 6, 8), ig_steps=1, batches=[2], dtypes=["bfloat16"])
    heads = 4 if family == "gpt2" else 2
    grouped = sum((1 + 5 * layer) * (4 + 2 * heads) + 1 + 5 * layer + 4 for layer in range(2)) + 11
    assert made.edges["grouped"] == grouped and made.edges["ungrouped"] >= grouped
    assert made.memory[0].weights == 2 * made.parameters
    assert 2 * made.forward_flops < made.flops < 10 * made.forward_flops


def test_memory_follows_batch_and_dtype() -> None:
    made = plan(CONFIGS["llama"], Workload(10, 40, 16), ig_steps=1, batches=[4, 100])
    assert made.to_dataframe()["rows at a time"].tolist() == [4, 40] * 2
    full, half = made.memory[:2], made.memory[2:]
    assert [m.peak for m in full] == sorted(m.peak for m in full)
    assert all(h.weights * 2 == f.weights and h.peak < f.peak for h, f in zip(half, full, strict=True))
    assert "Plan" in made._repr_html_()


def test_a_dry_run_counts_operations_and_peak_bytes() -> None:
    model = weightless(CONFIGS["llama"])
    weight = next(p for name, p in model.named_parameters() if "q_proj" in name or name.endswith("q._original_component.weight"))

    def run() -> None:
        product = weight @ weight  # 32 × 32 floats
        doubled = product * 2  # both are held
        del product
        assert doubled.sum()  # has no value, and passes for 1

    usage = dry_run(model, run)
    assert usage.flops == 2 * 32**3
    assert usage.peak_bytes == 2 * 4 * 32 * 32


def test_known_pairs_have_the_parameters_they_are_called_by() -> None:
    billions = {"diffugpt-s": 0.124, "dream-7b": 7.616}
    for name, size in billions.items():
        storages = {s._cdata: s.nbytes() / 4 for s in (p.untyped_storage() for p in weightless(KNOWN_PAIRS[name].config()).parameters())}
        assert sum(storages.values()) / 1e9 == pytest.approx(size, abs=1e-3), name


def test_only_public_code_confirms_a_shape() -> None:
    assert find_shape("diffugpt-s").notes == ()
    assert "not confirmed" in find_shape("dream-7b").notes[0]
    with pytest.raises(ValueError, match="dream-9b.*tiny.*dream-7b"):
        find_shape("dream-9b")


def test_rows_are_the_answer_tokens_that_are_read() -> None:
    shape = find_shape("tiny")
    tokenizer = shape.tokenizer()
    assert tokenizer is not None
    examples = IOI().examples(tokenizer, 5, 0)
    work = workload_of(IOI(), tokenizer, 5)
    assert work == Workload(5, sum(sum(e.readable) for e in examples), max(len(e.clean) for e in examples))


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"dtypes": ["int8"]}, "no floating torch dtype"),
        ({"batches": [0]}, "at least 1"),
        ({"rate": 0.0}, "operations per second"),
        ({"batches": []}, "at least one"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(CONFIGS["llama"], Workload(1, 1, 4), **arguments)
    with pytest.raises(ValueError, match="tokens is 1"):
        Workload(1, 1, 1)


def test_the_command_plans_the_bundled_pair_and_says_what_it_lacks() -> None:
    done = CliRunner().invoke(cli.app, ["plan", "--pair", "tiny", "--task", "ioi", "--n", "4", "--ig-steps", "1", "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    assert "1,108" in done.output and "float32" in done.output
    for arguments, said in (
        (["--pair", "dream-7b", "--task", "ioi"], "--tokens"),
        (["--pair", "nosuch"], "nosuch"),
        (["--pair", "tiny", "--batch", "many"], "whole numbers"),
        (["--pair", "tiny", "--dtype", "int8", "--task", "ioi"], "no floating torch dtype"),
    ):
        refused = CliRunner().invoke(cli.app, ["plan", *arguments])
        assert refused.exit_code == 2 and said in " ".join(refused.output.split()), refused.output


def test_nothing_of_a_plan_is_computed() -> None:
    config = KNOWN_PAIRS["diffullama-7b"].config()
    config.num_hidden_layers = 2
    model = weightless(config, torch.bfloat16)
    assert peak_bytes(lambda: model(torch.zeros(1, 4, dtype=torch.long))) < 2**20
