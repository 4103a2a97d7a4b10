"""Ablate sets of components, or of neurons, of one model, and hold each loss beside that of random sets.

1. Each batch runs clean once. The outputs that replace others are made once, too: zeros, means over other prompts, or the corrupt run's.
2. For each set, and for each of its random controls, it runs again with these components' outputs replaced (`interventions.ablation`).
3. Metric and accuracy are means over all prompts. Their intervals draw the prompts anew, the same ones in every run, and the controls.

*Beyond chance* is what a set costs beyond its controls: the mean of the controls minus the set. Positive: these components matter more than
as many others do.

Cost: one forward per set and control, and two for the clean and the replaced outputs. As many sets as memory allows share a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.progress import progress_bar
from mechshift_tl.attribution.metrics import MetricLike, resolve
from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.hooks import Hooks
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.evaluation.ablation_result import AblationRow
from mechshift_tl.evaluation.component_sets import ComponentSet, Mask
from mechshift_tl.evaluation.neuron_sets import NeuronSet
from mechshift_tl.evaluation.run import Outcome, Tally
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import check_draws, interval, mean_of_redrawn, sample_and_draws
from mechshift_tl.interventions.ablation import ablated_logits, component_hooks, neuron_hooks
from mechshift_tl.interventions.neurons import NeuronMeans, replaced_neurons
from mechshift_tl.interventions.replaced import Intervention, WriterMeans, replaced
from mechshift_tl.readouts import Batch, Readouts
from mechshift_tl.runs.processes import Processes

By = Literal["zero", "mean", "counterfactual"]


def run_ablated(
    model: HookedModel,
    readouts: Readouts,
    masks: Sequence[Mask],
    by: Intervention = "counterfactual",
    *,
    means: WriterMeans | NeuronMeans | None = None,
    metric: MetricLike = "logit_diff",
    batch_tokens: int | None = None,
) -> tuple[Outcome, list[Outcome]]:
    """The clean run, and one run per mask with what it names replaced; the metric per prompt, in its unit.

    Masks are over components `(n_components,)`, or over neurons `(n_layers, d_mlp)`. `by`, `means`: as `interventions.replaced` takes them,
    for neurons as `interventions.neurons` does. Raises ValueError on no mask, and on readouts, masks or means that do not fit.
    """
    readouts.check(model)
    if not masks:
        raise ValueError("run_ablated was given no set of components; give at least one")
    function, whole = resolve(metric), range(readouts.n_examples)
    tallies = [Tally(readouts, readouts, whole, function) for _ in range(1 + len(masks))]
    with progress_bar(len(readouts), f"ablate {len(masks)} sets", "row") as bar:
        tokens = batch_tokens_for(model, "writers", batch_tokens)
        for batch in readouts.batches(tokens):
            batch = batch.to(model.cfg.device).narrowed(model)
            hooks_for = _hooks(model, batch, masks[0].ndim == 2, by, means)
            with torch.no_grad():
                clean = batch.logits(model, "clean")
            tallies[0].add(batch, clean, clean)
            at_once = max(1, tokens // batch.clean.numel())
            groups = torch.stack([*masks]).split(at_once)
            runs = (logits for some in groups for logits in ablated_logits(model, batch, hooks_for(some), len(some)))
            for logits, tally in zip(runs, tallies[1:], strict=True):
                tally.add(batch, logits, clean)
            bar.update(len(batch))
    clean_outcome, *rest = (tally.outcome(Processes.here()) for tally in tallies)
    return clean_outcome, rest


def _hooks(
    model: HookedModel, batch: Batch, neurons: bool, by: Intervention, means: WriterMeans | NeuronMeans | None
) -> Callable[[Tensor], Hooks]:
    """Makes the hooks of some sets; what replaces their outputs is measured once for all of them."""
    if neurons:
        if isinstance(means, WriterMeans):
            raise ValueError("run_ablated: neurons are ablated, but means are of writers; give neuron_means(model, other_prompts)")
        return partial(neuron_hooks, activations=replaced_neurons(model, batch, by, means))
    if isinstance(means, Tensor):
        raise ValueError("run_ablated: components are ablated, but means are of neurons; give writer_means(model, other_prompts)")
    return partial(component_hooks, model, outputs=replaced(model, batch, by, means))


def ablate(
    model: HookedModel,
    readouts: Readouts,
    graph: Graph,
    sets: Sequence[ComponentSet] | Sequence[NeuronSet],
    by: By,
    *,
    role: str = "",
    means: WriterMeans | NeuronMeans | None = None,
    n_random: int = 10,
    n_boot: int = 1000,
    seed: int = 0,
) -> list[AblationRow]:
    """One row per set: what it leaves of metric and accuracy, beside `n_random` matched random sets. `role`: how the rows name the model.

    Raises ValueError where `run_ablated` does, and unless `n_random` and `n_boot` are at least 1.
    """
    check_draws(n_boot)
    check_draws(n_random, "n_random")
    beside = [one.controls(graph, n_random, seed + i) for i, one in enumerate(sets)]
    clean, runs = run_ablated(model, readouts, [one.mask for one in sets] + [mask for group in beside for mask in group], by, means=means)
    read = torch.zeros(readouts.n_examples, dtype=torch.float64).index_add(0, readouts.example, readouts.n_read.double())
    counts = sample_and_draws(len(read), n_boot, seed)
    rows, others = [], iter(runs[len(sets) :])
    for one, run in zip(sets, runs, strict=False):
        group = [next(others) for _ in range(n_random)]
        measured = (_figures(kind, run, group, clean, read, counts, seed) for kind in ("metric", "accuracy"))
        figures = {name: value for columns in measured for name, value in columns.items()}
        n_components, n = int(one.mask.sum()), int((read > 0).sum())
        free = one.free_share(graph)
        rows.append(AblationRow(role, one.name, by, n_components=n_components, free=free, n_random=n_random, n=n, **figures))
    return rows


def _figures(kind: str, run: Outcome, group: list[Outcome], clean: Outcome, read: Tensor, counts: Tensor, seed: int) -> dict[str, float]:
    """The columns of one figure: of the whole model, under the ablation, under the controls, and the loss beyond these."""

    def over_draws(outcome: Outcome) -> Float[Tensor, " draws"]:
        weight = read if kind == "metric" else (read > 0).double()
        values = outcome.metric.double() if kind == "metric" else outcome.first.double()
        return counts @ (values * weight) / (counts @ weight)

    own = over_draws(run)
    random = mean_of_redrawn(torch.stack([over_draws(one) for one in group], 1), seed)
    found = {f"clean_{kind}": over_draws(clean)[0].item()}
    for name, draws in ((kind, own), (f"random_{kind}", random), (f"beyond_{kind}", random - own)):
        over = interval(draws[1:].tolist())
        found |= {name: draws[0].item(), f"{name}_low": over.low, f"{name}_high": over.high}
    return found
