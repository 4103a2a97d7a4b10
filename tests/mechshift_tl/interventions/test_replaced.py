"""Writers' outputs and their means, against the residual stream they add up to and against averages taken one token at a time."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.interventions.outputs import WriterOutputs, run_writers
from mechshift_tl.interventions.replaced import Intervention, WriterMeans, replaced, writer_means
from mechshift_tl.readouts import ABSENT, Batch, Readouts, aligned_logits

FULL = DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2)


def prompts(seed: int = 0, lengths: tuple[int, ...] = (7, 5, 7)) -> Readouts:
    """Random rows of the given lengths, read at one position."""
    generator = torch.Generator().manual_seed(seed)
    n, longest = len(lengths), max(lengths)
    clean, corrupt = torch.randint(3, 48, (2, n, longest), generator=generator)
    answers, foils = torch.randint(3, 48, (2, n, 1), generator=generator)
    beyond = torch.arange(longest) >= torch.tensor(lengths)[:, None]
    index = torch.arange(n)
    return Readouts(
        clean.masked_fill(beyond, ABSENT), corrupt.masked_fill(beyond, ABSENT), torch.full((n, 1), 4), answers, foils,
        step=torch.zeros_like(index), example=index, groups=("all",) * n,
    )  # fmt: skip


def batch_of(readouts: Readouts) -> Batch:
    return next(readouts.batches(10**6))


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def model(request, native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(request.param), spec=FULL)


def token_by_token(model: Any, readouts: Readouts, side: str) -> list[tuple[int, dict[str, Tensor]]]:
    """(position, outputs there) of every token, each row run alone."""
    found = []
    for row in getattr(readouts, side):
        tokens = row[row != ABSENT][None]
        _, cache = model.run_with_cache(tokens)
        for p in range(tokens.shape[1]):
            z, mlp = (torch.stack([cache[f"blocks.{i}.{name}"][0, p] for i in range(2)]) for name in ("attn.hook_z", "hook_mlp_out"))
            found.append((p, {"input": cache["blocks.0.hook_resid_pre"][0, p], "z": z.reshape(2, 4, -1), "mlp": mlp}))
    return found


def test_the_writers_add_up_to_the_residual_stream(model) -> None:
    batch = batch_of(prompts(lengths=(6, 6)))
    outputs, logits = run_writers(model, batch, "corrupt")
    heads = sum(torch.einsum("bphe,hed->bpd", z, block.attn.W_O) for z, block in zip(outputs.z, model.blocks, strict=True))
    _, cache = model.run_with_cache(batch.corrupt)
    torch.testing.assert_close(outputs.input + heads + sum(outputs.mlp), cache["blocks.1.hook_resid_post"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, batch.at_targets(aligned_logits(model, batch.corrupt)))


@pytest.mark.parametrize("side", ["clean", "corrupt"])
def test_means_are_per_writer_and_over_every_token_of_the_prompts(model, side) -> None:
    others = prompts(1)
    means = writer_means(model, others, side=side, batch_tokens=8)
    tokens = token_by_token(model, others, side)
    assert int(means.count) == len(tokens) == 19
    for name in ("input", "z", "mlp"):
        expected = torch.stack([values[name] for _, values in tokens]).mean(0)
        torch.testing.assert_close(getattr(means, name), expected, rtol=1e-5, atol=1e-6)
    assert means.provenance["side"] == side and means.provenance["n_examples"] == 3


def test_positional_means_are_over_the_rows_that_reach_a_position(model) -> None:
    others = prompts(1)
    means = writer_means(model, others, positional=True)
    tokens = token_by_token(model, others, "clean")
    assert means.count.tolist() == [3, 3, 3, 3, 3, 2, 2]
    for p in range(7):
        for name in ("input", "z", "mlp"):
            expected = torch.stack([values[name] for at, values in tokens if at == p]).mean(0)
            found = means.input[p] if name == "input" else getattr(means, name)[:, p]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_what_writers_are_replaced_by(model) -> None:
    batch = batch_of(prompts(lengths=(5, 5)))
    corrupt, _ = run_writers(model, batch, "corrupt")
    others = prompts(1)
    overall, positional = (writer_means(model, others, positional=p) for p in (False, True))
    same(replaced(model, batch, "counterfactual"), corrupt)
    same(corrupt - replaced(model, batch, "zero"), corrupt)
    averages: list[tuple[WriterMeans, Intervention]] = [(overall, "mean"), (positional, "mean_positional")]
    for means, name in averages:
        found = replaced(model, batch, name, means)
        assert found.z[1].shape == corrupt.z[1].shape and found.mlp[1].shape == found.input.shape == corrupt.input.shape
        at = slice(0, 5) if means.positional else None
        torch.testing.assert_close(found.z[1], means.z[1][at].expand_as(corrupt.z[1]))
        torch.testing.assert_close(found.input, means.input[at].expand_as(corrupt.input))


def same(a: WriterOutputs, b: WriterOutputs) -> None:
    for x, y in zip((a.input, *a.z, *a.mlp), (b.input, *b.z, *b.mlp), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("positional", [False, True])
def test_means_survive_being_saved(model, tmp_path, positional) -> None:
    means = writer_means(model, prompts(1), positional=positional)
    means.save(tmp_path / "means.safetensors")
    again = WriterMeans.load(tmp_path / "means.safetensors")
    assert again.positional == positional and again.provenance == means.provenance
    assert all(torch.equal(getattr(again, name), getattr(means, name)) for name in ("input", "z", "mlp", "count"))


def test_impossible_interventions_are_refused(model, native) -> None:
    batch = batch_of(prompts(lengths=(7, 7)))
    overall, short = writer_means(model, prompts(1)), writer_means(model, prompts(1, (6, 6)), positional=True)
    wider = writer_means(HookedDiffusionTransformer.from_hf(native("llama", num_hidden_layers=3)), prompts(1))
    refused: list[tuple[Any, WriterMeans | None, str]] = [
        ("resample", None, "intervention is 'resample'; choose one of counterfactual, zero, mean"),
        ("mean", None, "needs means=writer_means"),
        ("zero", overall, "uses no means"),
        ("mean_positional", overall, "positional=True"),
        ("mean", wider, r"\(3, 4, 8, 32\); external has \(2, 4, 8, 32\)"),
        ("mean_positional", short, "nothing for position 6"),
    ]
    for intervention, means, message in refused:
        with pytest.raises(ValueError, match=message):
            replaced(model, batch, intervention, means)
    with pytest.raises(ValueError, match="side is 'foil'"):
        writer_means(model, prompts(1), side=cast(Any, "foil"))


def test_means_of_what_is_not_finite_name_where(native) -> None:
    broken = native("llama")
    model = HookedDiffusionTransformer.from_hf(broken, spec=FULL)
    broken.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("inf")
    with pytest.raises(
        FloatingPointError, match="writer_means: outputs are not finite; .* clean run .* layer 1, hook blocks.1.hook_mlp_out"
    ):
        writer_means(model, prompts(1))
