"""Which MLP neurons tell prompt groups apart.

1. Run the clean canvases. Take the neurons' activations (`mlp.hook_post`; for a gated MLP, act(gate)·up) at the positions that are read,
   and average them over each example's reads, so that every example counts once.
2. Average by prompt group, and score each neuron by η²: the share of its variance over examples that lies between groups (`selectivity`).
3. Shuffle the labels of the groups many times, and compute η² for each shuffle. A neuron is selective only above what shuffled labels give.

A group of one example has no variance within it, so it is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from hooked_diffusion.progress import progress_bar
from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.readouts import ABSENT, Readouts
from mechshift_tl.readouts.rows import check_given
from mechshift_tl.runs.provenance import provenance
from mechshift_tl.views.neurons_figure import draw_neurons
from mechshift_tl.views.positions import fixed_position, run_at
from mechshift_tl.views.selectivity import eta_squared, expected_by_chance, group_means, null_95

Position = Literal["target"] | int


@dataclass(frozen=True)
class NeuronSettings:
    """How neurons were read: the `position` (see `neuron_activations`), and how often and from which `seed` the labels were shuffled."""

    position: Position = "target"
    shuffles: int = 200
    seed: int = 0


@dataclass(frozen=True, eq=False)
class NeuronActivations(Artefact):
    """MLP neurons of one layer by prompt group.

    - `groups`, `sizes (groups,)`: the names of the groups, and how many examples each has; `left_out`: examples that stood alone in a
      group.
    - `means (groups, d_mlp)`: mean activation, in the model's own unit, signed.
    - `selectivity (d_mlp,)`: η² between groups, in [0, 1].
    - `null_mean`: mean η² under shuffled labels, in [0, 1], the same for every neuron.
    - `null_95 (d_mlp,)`: the η² that each neuron exceeds in 5 % of the shuffles.
    - `null_max_95`: the η² that the largest of all neurons exceeds in 5 % of the shuffles.

    Raises ValueError when the tensors disagree in shape.
    """

    KIND: ClassVar[str] = "neuron activations"

    layer: int
    groups: list[str]
    sizes: list[int]
    means: Float[Tensor, "groups d_mlp"]
    selectivity: Float[Tensor, " d_mlp"]
    null_mean: float
    null_95: Float[Tensor, " d_mlp"]
    null_max_95: float
    settings: NeuronSettings = NeuronSettings()
    left_out: int = 0
    provenance: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        d_mlp = self.means.shape[-1]
        shapes = {"means": (len(self.groups), d_mlp), "selectivity": (d_mlp,), "null_95": (d_mlp,)}
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"NeuronActivations: {name} is {tuple(getattr(self, name).shape)}, not {shape}")

    @property
    def neurons(self) -> list[str]:
        """`(d_mlp,)`: ids, such as `m3.n17` for neuron 17 of layer 3."""
        return [f"m{self.layer}.n{i}" for i in range(len(self.selectivity))]

    @property
    def share_selective(self) -> float:
        """Share of neurons, in [0, 1], above their own `null_95`. It is about 0.05 where the layer's neurons do not depend on the group."""
        return (self.selectivity > self.null_95).float().mean().item()

    def to_dataframe(self) -> pd.DataFrame:
        """One line per neuron, most selective first.

        Columns: neuron, selectivity, `null_95`, `selective` (above `null_95`), `selective_of_all` (above `null_max_95`); `mean`, the mean
        activation over groups; `peak_group`, the group whose mean is farthest from it, and `peak_mean`, that group's mean.
        """
        overall = self.means.mean(0)
        peak = (self.means - overall).abs().argmax(0)
        frame = pd.DataFrame(
            {
                "neuron": self.neurons,
                "selectivity": self.selectivity.tolist(),
                "null_95": self.null_95.tolist(),
                "selective": (self.selectivity > self.null_95).tolist(),
                "selective_of_all": (self.selectivity > self.null_max_95).tolist(),
                "mean": overall.tolist(),
                "peak_group": [self.groups[g] for g in peak.tolist()],
                "peak_mean": self.means.gather(0, peak[None])[0].tolist(),
            }
        )
        return frame.sort_values("selectivity", ascending=False, kind="stable", ignore_index=True)

    def top(self, n: int) -> pd.DataFrame:
        """The `n` most selective neurons."""
        return self.to_dataframe().head(n)

    def heatmap_frame(self, n: int) -> pd.DataFrame:
        """Mean activations, one line per group and one column for each of the `n` most selective neurons."""
        order = self.selectivity.argsort(descending=True, stable=True)[:n]
        return pd.DataFrame(self.means[:, order].numpy(), index=self.groups, columns=[f"m{self.layer}.n{i}" for i in order.tolist()])

    def figure(self, n: int = 40) -> go.Figure:
        """The `n` most selective neurons: η² beside each one's own null (above), and mean activation by group (below)."""
        return draw_neurons(self.heatmap_frame(n), self.top(n))

    def __repr__(self) -> str:
        d_mlp, examples = len(self.selectivity), sum(self.sizes)
        return f"NeuronActivations: layer {self.layer}, {d_mlp} neurons, {len(self.groups)} groups of {examples} examples"

    def _repr_html_(self) -> str:
        null = f"{self.share_selective:.0%} above their own 95 % null (5 % by chance); η² by chance {self.null_mean:.3f}"
        return card(str(self), f"{null}, largest neuron {self.null_max_95:.3f}", self.top(10))


def neuron_activations(
    model: HookedModel,
    readouts: Readouts,
    layer: int,
    *,
    position: Position = "target",
    groups: Sequence[str] | None = None,
    shuffles: int = 200,
    seed: int = 0,
    batch_tokens: int | None = None,
) -> NeuronActivations:
    """Mean activations `(groups, d_mlp)` of one layer's MLP neurons by prompt group, and how selective each neuron is.

    - `position`: "target" reads the positions that predict the targets; a number reads that position of every row, negative ones from the
      row's end.
    - `groups`: one label per example, in place of `readouts.groups` where those are too fine.
    - `shuffles`, `seed`: how often the labels are shuffled for the 95 % points (at least 20), and from which seed.
    - `batch_tokens`: tokens per forward, at least one row; by default 8192, or fewer where the logits would exceed 512 MiB.

    `model` is a `HookedDiffusionTransformer` or any TransformerLens bridge with the usual hooks. Costs one forward per row. Raises
    ValueError, before any forward, on a layer or position that does not exist, and where fewer than two groups have two examples.
    """
    _check(model, readouts, layer, position, shuffles)
    names, members, labels = grouping(readouts.groups if groups is None else groups, readouts.n_examples)
    values = example_activations(model, readouts, layer, position=position, batch_tokens=batch_tokens)[members]
    each_95, max_95 = null_95(values, labels, shuffles, seed)
    left_out = readouts.n_examples - len(members)
    return NeuronActivations(
        layer=layer, groups=names, sizes=labels.bincount().tolist(), means=group_means(values, labels),
        selectivity=eta_squared(values, labels), null_mean=expected_by_chance(labels), null_95=each_95, null_max_95=max_95,
        settings=NeuronSettings(position, shuffles, seed), left_out=left_out,
        provenance=provenance(model, readouts.info),
    )  # fmt: skip


def example_activations(
    model: HookedModel, readouts: Readouts, layer: int, *, position: Position = "target", batch_tokens: int | None = None
) -> Float[Tensor, "n_examples d_mlp"]:
    """`(n_examples, d_mlp)`: one layer's neuron activations on the clean canvases, averaged over each example's reads."""
    return layers_activations(model, readouts, [layer], position=position, batch_tokens=batch_tokens)[0]


@torch.no_grad()
def layers_activations(
    model: HookedModel, readouts: Readouts, layers: Sequence[int], *, position: Position = "target", batch_tokens: int | None = None
) -> Float[Tensor, "layers n_examples d_mlp"]:
    """`(layers, n_examples, d_mlp)`: as `example_activations`, of several layers in one forward per row."""
    names = [f"blocks.{layer}.mlp.hook_post" for layer in layers]
    sums: Tensor | None = None
    reads = torch.zeros(readouts.n_examples, dtype=torch.double)
    with progress_bar(len(readouts), f"neurons of {len(layers)} layers", "row") as bar:
        for batch in readouts.batches(batch_tokens_for(model, "logits", batch_tokens)):
            batch, example = batch.to(model.cfg.device), readouts.example[batch.index]
            at = batch.predicting(model) if position == "target" else fixed_position(batch, position)
            seen = run_at(model, batch, at, names)[0]
            values = torch.stack([seen[name].unflatten(0, at.shape).sum(1).double().cpu() for name in names])
            sums = values.new_zeros(len(layers), readouts.n_examples, values.shape[-1]) if sums is None else sums
            sums.index_add_(1, example, values)
            reads.index_add_(0, example, torch.full((len(example),), at.shape[1], dtype=torch.double))
            bar.update(len(example))
    assert sums is not None
    return (sums / reads[:, None]).float()


def grouping(groups: Sequence[str], n_examples: int) -> tuple[list[str], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """The names of the groups with two examples or more, sorted; the numbers of the examples in them; the group number of each of those.

    Raises ValueError on a wrong number of labels, and where fewer than two such groups exist.
    """
    if len(groups) != n_examples:
        raise ValueError(f"neuron_activations: groups names {len(groups)} examples, the readouts have {n_examples}")
    names = sorted(name for name, size in Counter(groups).items() if size >= 2)
    if len(names) < 2:
        raise ValueError(
            f"neuron_activations: {len(names)} of {len(set(groups))} groups have two or more of the {n_examples} examples; selectivity "
            "needs two such groups: pass coarser groups=, or more examples"
        )
    members = [i for i, name in enumerate(groups) if name in set(names)]
    return names, torch.tensor(members), torch.tensor([names.index(groups[i]) for i in members])


def _check(model: HookedModel, readouts: Readouts, layer: int, position: Position, shuffles: int) -> None:
    check_given("neuron_activations", model, readouts)
    if not 0 <= layer < model.cfg.n_layers:
        raise ValueError(f"neuron_activations: layer {layer} does not exist; the model has layers 0 … {model.cfg.n_layers - 1}")
    lengths = (readouts.clean != ABSENT).sum(1)
    shortest = int(lengths.min())
    if position != "target" and (isinstance(position, str) or not -shortest <= position < shortest):
        raise ValueError(
            f"neuron_activations: position is {position!r}; say 'target', or an index into the shortest row's {shortest} tokens"
        )
    if position != "target" and readouts.clean_mask is not None:
        hidden = ~readouts.clean_mask.gather(1, (torch.full_like(lengths, int(position)) % lengths)[:, None])[:, 0]
        if hidden.any():
            raise ValueError(
                f"neuron_activations: position {position} is masked in row {int(hidden.nonzero()[0])}; say one that every row shows"
            )
    if shuffles < 20:
        raise ValueError(f"neuron_activations: {shuffles} shuffles are too few for a 95 % point; take at least 20")
