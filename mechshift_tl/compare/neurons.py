"""Neurons of early MLPs, the same index side by side in several models: what they tell apart, what they carry, whether they are the same.

1. Activations at the positions that predict the targets, averaged per prompt; selectivity η² between prompt groups (`views.selectivity`).
   A neuron is selective where its p, corrected for all neurons of these layers by the permutation max-statistic, is below 0.05.
2. Attribution of every neuron (EAP-IG, `attribute(level="neurons")`) on the first prompts: by group, and the participation ratio of its
   |mean|: how many neurons carry the behaviour, if those that do carry it alike.
3. Correlation over prompts of a neuron's activation in the ARM and in another model. 1: the same neuron still; beside it the same with the
   ids inside each layer shuffled, which is what unrelated neurons give.

Statistics have intervals over prompts, paired over models. η² over draws of the prompts lies high in every model alike: read its contrasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.attribution.attribute import attribute
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.compare.neuron_result import ALIKE, BY_CHANCE, NeuronComparison, NeuronComparisonSettings
from mechshift_tl.compare.paired import bounds, paired, prompt_weights
from mechshift_tl.intervals import seeded
from mechshift_tl.readouts import Readouts
from mechshift_tl.views.neurons import grouping, layers_activations
from mechshift_tl.views.selectivity import eta_squared, group_means, p_corrected, weighted_eta_squared
from mechshift_tl.views.specialisation import participation_ratio
from mechshift_tl.views.top_activations import top_activations

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Values = dict[str, Float[Tensor, "n neurons"]]


def compare_neurons(
    models: Mapping[str, HookedModel],
    readouts: Mapping[str, Readouts],
    settings: NeuronComparisonSettings,
    *,
    groups: Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> NeuronComparison:
    """Neurons of the layers of `settings`, by role; "arm" is the one that the others are held against.

    `groups`: one label per example, in place of the readouts' where those are too fine. Examples alone in their group are left out.
    Costs two forwards per row and model, and the attribution of `settings.attributed` prompts: that many rows × (2 + 3 · ig_steps) passes.
    Raises ValueError, before any forward, on layers that do not exist, without an "arm", and where fewer than two groups have two examples.
    """
    first = readouts["arm"] if "arm" in models else None
    if first is None or any(one.n_examples != first.n_examples for one in readouts.values()):
        raise ValueError(f"compare_neurons: models are {sorted(models)}; give 'arm' and others, with readouts of the same prompts")
    _check_layers(models["arm"], settings)
    names, members, labels = grouping(first.groups if groups is None else groups, first.n_examples)
    values = {role: _flat(layers_activations(model, readouts[role], settings.layers))[members] for role, model in models.items()}
    few = members[: settings.attributed]
    sums = {role: _attributions(model, readouts[role].select(few.tolist()), settings) for role, model in models.items()}
    width = values["arm"].shape[1] // len(settings.layers)
    neurons = [f"m{layer}.n{i}" for layer in settings.layers for i in range(width)]
    eta = torch.stack([eta_squared(one, labels) for one in values.values()])
    found = NeuronComparison(
        list(models), neurons, names, eta,
        torch.stack([p_corrected(one, labels, settings.shuffles, settings.seed) for one in values.values()]),
        torch.stack([one.sum(0) / reads.sum() for one, reads in sums.values()]).float(),
        torch.stack([correlations(values["arm"], one) for role, one in values.items() if role != "arm"]),
        torch.stack([group_means(one, labels) for one in values.values()]),
        torch.stack([_by_group(*one, labels[: len(few)], len(names)) for one in sums.values()]),
        _statistics(values, sums, labels, width, settings), pd.DataFrame(), len(members), settings,
    )  # fmt: skip
    return _with_tokens(found, models, readouts, tokenizer)


def _check_layers(model: HookedModel, settings: NeuronComparisonSettings) -> None:
    wrong = [layer for layer in settings.layers if not 0 <= layer < model.cfg.n_layers]
    if wrong or not settings.layers or settings.shuffles < 20 or settings.attributed < 2:
        raise ValueError(
            f"compare_neurons: layers are {settings.layers}, shuffles {settings.shuffles}, attributed {settings.attributed}; give layers "
            f"of 0 … {model.cfg.n_layers - 1}, at least 20 shuffles and 2 prompts"
        )


def _flat(values: Float[Tensor, "layers n d_mlp"]) -> Float[Tensor, "n neurons"]:
    """Layer by layer, beside each other."""
    return values.transpose(0, 1).flatten(1)


def _attributions(
    model: HookedModel, readouts: Readouts, settings: NeuronComparisonSettings
) -> tuple[Float[Tensor, "few neurons"], Float[Tensor, " few"]]:
    """Each prompt's attribution of the neurons, summed over its reads, and how many reads these are."""
    scores = attribute(model, readouts, level="neurons", ig_steps=settings.ig_steps, keep_per_example=True)
    assert scores.per_example is not None and scores.read_per_example is not None
    layers = scores.per_example.unflatten(1, (model.cfg.n_layers, -1))[:, list(settings.layers)]
    return layers.flatten(1).double(), scores.read_per_example.double()


def _by_group(
    sums: Float[Tensor, "few neurons"], reads: Float[Tensor, " few"], labels: Int[Tensor, " few"], n_groups: int
) -> Float[Tensor, "groups neurons"]:
    member = torch.nn.functional.one_hot(labels, n_groups).double().T
    return (member @ sums / (member @ reads)[:, None]).float()


def correlations(x: Float[Tensor, "n neurons"], y: Float[Tensor, "n neurons"]) -> Float[Tensor, " neurons"]:
    """Pearson's r of each column of `x` with that of `y`; 0 where one of them does not vary."""
    return _correlations(x, y, torch.ones(1, len(x), dtype=torch.float64))[0].float()


def _correlations(
    x: Float[Tensor, "n neurons"], y: Float[Tensor, "n neurons"], weights: Float[Tensor, "draws n"]
) -> Float[Tensor, "draws neurons"]:
    """r of each column where example i counts `weights[:, i]` times."""
    x, y = (one.double() - one.double().mean(0) for one in (x, y))
    weights = weights / weights.sum(1, keepdim=True)
    covariance = weights @ (x * y) - (weights @ x) * (weights @ y)
    variances = [(weights @ one**2 - (weights @ one) ** 2).clamp_min(0) for one in (x, y)]
    return (covariance / (variances[0] * variances[1]).sqrt()).nan_to_num(0.0, posinf=0.0, neginf=0.0).clamp(-1, 1)


def _statistics(
    values: Values,
    sums: Mapping[str, tuple[Float[Tensor, "few neurons"], Float[Tensor, " few"]]],
    labels: Int[Tensor, " n"],
    width: int,
    settings: NeuronComparisonSettings,
) -> pd.DataFrame:
    """The rows of `NeuronComparison.statistics`."""
    weights = prompt_weights(len(labels), settings.n_boot, settings.seed)
    few = prompt_weights(len(next(iter(sums.values()))[0]), settings.n_boot, settings.seed)
    eta = {role: weighted_eta_squared(one, labels, weights).mean(1) for role, one in values.items()}
    breadth = {role: participation_ratio(few @ total / (few @ reads)[:, None]) for role, (total, reads) in sums.items()}
    others = {role: one for role, one in values.items() if role != "arm"}
    alike = {role: _correlations(values["arm"], one, weights).median(1).values for role, one in others.items()}
    order = _shuffled_within_layers(len(settings.layers), width, settings.seed)
    strangers = torch.stack([_correlations(values["arm"], one[:, order], weights).median(1).values for one in others.values()])
    chance = pd.DataFrame([{"subject": BY_CHANCE, **bounds(strangers.mean(0))}])
    frames = [
        paired(eta).assign(statistic="mean η²"),
        paired(breadth, "ratio").assign(statistic="attributed neurons"),
        paired(alike).assign(statistic=ALIKE),
        chance.assign(statistic=ALIKE),
    ]
    return pd.concat(frames, ignore_index=True).reindex(columns=["statistic", "subject", "value", "low", "high"])


def _shuffled_within_layers(n_layers: int, width: int, seed: int) -> Int[Tensor, " neurons"]:
    generator = seeded(seed)
    return torch.cat([layer * width + torch.randperm(width, generator=generator) for layer in range(n_layers)])


def _with_tokens(
    found: NeuronComparison,
    models: Mapping[str, HookedModel],
    readouts: Mapping[str, Readouts],
    tokenizer: PreTrainedTokenizerBase | None,
) -> NeuronComparison:
    """The same result with the tokens that most activate its shown neurons."""
    frames = []
    for role, model in models.items():
        rows = top_activations(model, readouts[role], found.shown, tokenizer=tokenizer)
        rows.insert(0, "role", role)
        frames.append(rows)
    return replace(found, activating=pd.concat(frames, ignore_index=True))
