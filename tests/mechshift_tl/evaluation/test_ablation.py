"""Ablations: against runs with hooks of their own, by truth of construction, and what is matched."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from hooked_diffusion import load_pair
from mechshift_tl.circuits import Circuit
from mechshift_tl.evaluation.ablation import ablate, run_ablated
from mechshift_tl.evaluation.ablation_result import Ablations
from mechshift_tl.evaluation.component_sets import ComponentSet, named_sets, weakest_sets
from mechshift_tl.evaluation.neuron_sets import strongest_neurons
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.neurons import neuron_means
from mechshift_tl.interventions.replaced import writer_means
from mechshift_tl.readouts import readouts
from mechshift_tl.tasks import IOI

GRAPH = Graph(6, 4, 4)


@pytest.fixture(scope="module")
def arm():
    """The bundled ARM and its readouts of five prompts."""
    pair = load_pair("tiny")
    assert pair.tokenizer is not None
    return pair.arm, readouts(pair.arm, IOI().examples(pair.tokenizer, 5))


def mask(*names: str) -> torch.Tensor:
    return torch.tensor([name in names for name in GRAPH.components])


def by_hooks(model, rows, names, by, means) -> torch.Tensor:
    """Logit difference per prompt when hooks overwrite the components in place, one prompt at a time."""
    points = [f"blocks.{i}.{kind}" for i in range(6) for kind in ("attn.hook_z", "hook_mlp_out")]
    found = {}
    for batch in rows.batches(1):
        with torch.no_grad():
            _, corrupt = model.run_with_cache(batch.corrupt)

        def put(tensor, hook, point, corrupt=corrupt):
            layer, new = int(point.split(".")[1]), tensor.clone()
            if "mlp" in point:
                if f"m{layer}" in names:
                    new[:] = {"zero": 0.0, "mean": means and means.mlp[layer], "counterfactual": corrupt[point]}[by]
                return new
            for head in (head for head in range(4) if f"a{layer}.h{head}" in names):
                other = corrupt[point].view(new.shape)[:, :, head]
                new[:, :, head] = {"zero": 0.0, "mean": means and means.z[layer, head], "counterfactual": other}[by]
            return new

        with torch.no_grad(), model.hooks(fwd_hooks=[(point, partial(put, point=point)) for point in points]):
            logits = batch.logits(model)
        found[int(batch.index)] = (logits[0, 0, batch.answer_ids[0, 0]] - logits[0, 0, batch.foil_ids[0, 0]]).item()
    return torch.tensor([found[i] for i in range(len(found))])


@pytest.mark.parametrize("by", ["zero", "mean", "counterfactual"])
def test_an_ablation_is_what_hooks_of_one_s_own_do(arm, by):
    model, rows = arm
    means = writer_means(model, rows) if by == "mean" else None
    sets = [("a0.h1", "m0"), ("a2.h0", "a2.h3", "m5", "a5.h2")]
    _, runs = run_ablated(model, rows, [mask(*names) for names in sets], by, means=means)
    for names, run in zip(sets, runs, strict=True):
        assert torch.allclose(run.metric, by_hooks(model, rows, names, by, means), atol=1e-4)


@pytest.mark.parametrize("by", ["zero", "mean", "counterfactual"])
def test_ablated_neurons_are_those_that_hooks_of_one_s_own_overwrite(arm, by):
    model, rows = arm
    rows = rows.select(next(iter(rows.batches(10_000))).index.tolist())  # prompts of one length
    (one_batch,) = rows.batches(10_000)
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(6)]
    with torch.no_grad():
        caches = {side: model.run_with_cache(one_batch.tokens(side), names_filter=names)[1] for side in ("clean", "corrupt")}
    mean = torch.stack([caches["clean"][name].mean((0, 1)) for name in names])
    assert torch.allclose(neuron_means(model, rows), mean, atol=1e-5)
    chosen = strongest_neurons(torch.randn(6, model.cfg.d_mlp, generator=torch.Generator().manual_seed(0)), 0.05, 3)
    other = {"zero": lambda i: 0.0, "mean": lambda i: mean[i], "counterfactual": lambda i: caches["corrupt"][names[i]]}[by]

    def put(tensor, hook):
        layer = int(hook.name.split(".")[1])
        return torch.where(chosen.mask[layer], torch.as_tensor(other(layer)), tensor)

    with torch.no_grad(), model.hooks(fwd_hooks=[(name, put) for name in names[:3]]):
        logits = one_batch.logits(model)[:, 0]
    expected = logits.gather(1, one_batch.answer_ids) - logits.gather(1, one_batch.foil_ids)
    means = mean if by == "mean" else None
    _, (run, nothing) = run_ablated(model, rows, [chosen.mask, torch.zeros_like(chosen.mask)], by, means=means)
    clean, _ = run_ablated(model, rows, [mask()], "zero")
    assert torch.allclose(run.metric[one_batch.index], expected[:, 0], atol=1e-4) and torch.allclose(
        nothing.metric, clean.metric, atol=1e-5
    )


def test_neuron_sets_and_their_controls():
    effect = torch.tensor([[1.0, -5.0, 2.0, 0.5], [3.0, 0.0, -4.0, 1.0], [9.0, 9.0, 9.0, 9.0]])
    chosen = strongest_neurons(effect, 3 / 8, 2)
    assert chosen.mask.nonzero().tolist() == [[0, 1], [1, 0], [1, 2]] and chosen.name == "top 3 neurons of the early layers"
    others = chosen.controls(GRAPH, 20, 0)
    assert all(one.sum(1).tolist() == [1, 2, 0] for one in others) and len({str(one.tolist()) for one in others}) > 5
    assert chosen.free_share(GRAPH) == 1.0
    with pytest.raises(ValueError, match="share is 0"):
        strongest_neurons(effect, 0, 2)


def test_means_of_the_other_kind_are_refused(arm):
    model, rows = arm
    with pytest.raises(ValueError, match="neuron_means"):
        run_ablated(model, rows, [torch.zeros(6, model.cfg.d_mlp, dtype=torch.bool)], "mean", means=writer_means(model, rows))
    with pytest.raises(ValueError, match="writer_means"):
        run_ablated(model, rows, [mask()], "mean", means=neuron_means(model, rows))
    with pytest.raises(ValueError, match="uses no means"):
        run_ablated(model, rows, [torch.zeros(6, model.cfg.d_mlp, dtype=torch.bool)], "zero", means=neuron_means(model, rows))


def test_nothing_ablated_is_the_model_and_everything_by_the_corrupt_run_leaves_the_input(arm):
    model, rows = arm
    clean, (none, everything) = run_ablated(model, rows, [mask(), ~mask()], "counterfactual")
    assert torch.allclose(none.metric, clean.metric, atol=1e-5) and none.first.equal(clean.first)
    circuit_free = run_ablated(model, replace(rows, clean=rows.corrupt), [~mask()], "counterfactual")[1][0]
    assert not torch.allclose(everything.metric, clean.metric, atol=0.1)
    # Only the input at the last position differs between the two, and it is the same token.
    assert torch.allclose(everything.metric, circuit_free.metric, atol=1e-4)


def test_batches_do_not_matter(arm):
    model, rows = arm
    sets = [mask("m0"), mask("a1.h1"), mask("m4", "m5")]
    one, many = (run_ablated(model, rows, sets, "zero", batch_tokens=tokens)[1] for tokens in (1, 10_000))
    for a, b in zip(one, many, strict=True):
        assert torch.allclose(a.metric, b.metric, atol=1e-4)


def test_rows_hold_the_means_and_what_is_beyond_chance(arm):
    model, rows = arm
    chosen = ComponentSet("mine", mask("m0", "a0.h0"))
    (row,) = ablate(model, rows, GRAPH, [chosen], "zero", role="arm", n_random=3, n_boot=200, seed=5)
    clean, (own, *others) = run_ablated(model, rows, [chosen.mask, *chosen.controls(GRAPH, 3, 5)], "zero")
    random = sum(one.metric.mean().item() for one in others) / 3
    assert (row.metric, row.random_metric, row.clean_metric) == pytest.approx(
        (own.metric.mean().item(), random, clean.metric.mean().item()), abs=1e-4
    )
    assert row.beyond_metric == pytest.approx(random - own.metric.mean().item(), abs=1e-4)
    assert row.accuracy == pytest.approx(own.first.float().mean().item()) and row.n == 5
    assert row.metric_low <= row.metric <= row.metric_high and row.beyond_metric_low <= row.beyond_metric <= row.beyond_metric_high


def test_controls_keep_kinds_and_thirds():
    chosen = ComponentSet("mine", mask("m0", "a0.h0", "a1.h3", "a4.h2"))
    for one in chosen.controls(GRAPH, 20, 0):
        names = [name for name, is_in in zip(GRAPH.components, one.tolist(), strict=True) if is_in]
        kinds = sorted((name[0], int(name[1]) // 2) for name in names)
        assert kinds == [("a", 0), ("a", 0), ("a", 2), ("m", 0)]
    assert chosen.free_share(GRAPH) == 1.0
    full = ComponentSet("early", mask("m0", "m1", "a0.h0"))
    assert full.free_share(GRAPH) == pytest.approx(1 / 3)
    anywhere = [one.nonzero()[:, 0].tolist() for one in replace(full, by_depth=False).controls(GRAPH, 20, 0)]
    assert any(max(places) >= 10 for places in anywhere)


def test_sets_by_depth_and_strength(scored):
    scores = scored(GRAPH, {("input", "m0"): 9.0, ("m0", "m4"): 5.0, ("m4", "logits"): 3.0, ("m0", "logits"): 1.0})
    sets = {one.name: one.mask for one in named_sets(Circuit.from_scores(scores, 4), 1, 2)}
    assert sets["early layers"].sum() == sets["middle layers"].sum() == sets["late layers"].sum() == 10
    assert sets["top 1"].equal(mask("m0")) and sets["all but the top 1"].equal(~mask("m0"))
    effect = torch.arange(30) - 20.0
    half = weakest_sets(effect, (0.5,))[0].mask
    assert effect[half].abs().max() <= effect[~half].abs().min()
    with pytest.raises(ValueError, match="cut is 4; of 6 layers, 1 to 3 can be early"):
        named_sets(Circuit.from_scores(scores, 4), 1, 4)


def test_the_result_says_whether_early_components_matter_and_comes_back(arm, tmp_path):
    model, rows = arm
    sets = [ComponentSet("top 2 of the early layers", mask("m0", "a0.h0"))]
    found = Ablations(
        (
            *ablate(model, rows, GRAPH, sets, "counterfactual", role="arm", n_random=2, n_boot=50),
            *ablate(model, rows, GRAPH, weakest_sets(torch.arange(30.0), (0.1,)), "counterfactual", role="arm", n_random=2),
        )
    )
    assert "in the ARM the top 2 of the early layers" in found.finding() and "with 90 %" in found.finding()
    sure = replace(found.rows[0], beyond_metric_low=0.5)
    assert Ablations((sure,)).finding().startswith("Supported:")
    assert Ablations((replace(sure, beyond_metric_low=-0.5),)).finding().startswith("Not supported:")
    assert len(found.figure().to_dict()["data"]) == 4
    found.save(tmp_path / "ablations.json")
    assert Ablations.load(tmp_path / "ablations.json") == found


def test_what_does_not_fit_is_refused(arm):
    model, rows = arm
    with pytest.raises(ValueError, match="has 30 heads and MLPs"):
        run_ablated(model, rows, [torch.ones(7, dtype=torch.bool)])
    with pytest.raises(ValueError, match="no set of components"):
        run_ablated(model, rows, [])
    with pytest.raises(ValueError, match="needs means="):
        run_ablated(model, rows, [mask("m0")], "mean")
