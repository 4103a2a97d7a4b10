"""The outputs that replace those of a patched writer.

A writer outside a circuit is patched: another output takes the place of its own.

- "counterfactual": its own output on the corrupt row, position by position;
- "zero": nothing;
- "mean": its mean output over all visible tokens of other prompts, the same at every position;
- "mean_positional": its mean output at that position of other prompts, which must therefore be as long and laid out alike.

Means are per writer: one vector for the input, for every head (before W_O, in head space) and for every MLP, never averaged over writers.
They come from other prompts than those that are measured (`writer_means`), so that no prompt is compared with itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from hooked_diffusion.progress import progress_bar
from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.hooks import Kept
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.component_grid import component_grid
from mechshift_tl.interventions.not_finite import locate_not_finite
from mechshift_tl.interventions.outputs import WriterOutputs, run_writers
from mechshift_tl.readouts import Batch, Readouts, Side
from mechshift_tl.readouts.rows import check_given
from mechshift_tl.runs.provenance import provenance

Intervention = Literal["counterfactual", "zero", "mean", "mean_positional"]


@dataclass(frozen=True, eq=False)
class WriterMeans(Artefact):
    """Mean outputs of a model's writers over a set of prompts; positional means have a `pos` dimension after the layers.

    - `input ([pos] d)`, `z (layer [pos] head d_head)`, `mlp (layer [pos] d)`, float32;
    - `count ([pos])`: visible tokens each mean was taken over, 0 where no prompt reaches.
    """

    KIND: ClassVar[str] = "writer means"

    input: Float[Tensor, "*pos d"] = field(repr=False)
    z: Float[Tensor, "layer *pos head d_head"] = field(repr=False)
    mlp: Float[Tensor, "layer *pos d"] = field(repr=False)
    count: Int[Tensor, "*pos"]
    provenance: dict[str, object] = field(default_factory=dict, repr=False)

    @property
    def positional(self) -> bool:
        """Whether there is a mean per position."""
        return self.count.ndim == 1

    def to_dataframe(self) -> pd.DataFrame:
        """One row per writer: component, and the length of its mean (mean over positions), in the writer's own unit."""
        layers = [({f"a{i}.h{h}": z.select(-2, h) for h in range(z.shape[-2])} | {f"m{i}": self.mlp[i]}) for i, z in enumerate(self.z)]
        means = {"input": self.input} | {name: one for layer in layers for name, one in layer.items()}
        return pd.DataFrame([(name, one.norm(dim=-1).mean().item()) for name, one in means.items()], columns=["component", "length"])

    def figure(self) -> go.Figure:
        """The length of every writer's mean, heads and MLPs by layer."""
        frame = self.to_dataframe()
        return component_grid(dict(zip(frame["component"], frame["length"], strict=True)), "length")

    def _repr_html_(self) -> str:
        kind = f"{len(self.count)} positions" if self.positional else "over all positions"
        return card("WriterMeans", f"{kind}, {int(self.count.sum())} tokens", self.to_dataframe().head(10))

    def outputs(self, rows: int, length: int, device: torch.device | str) -> WriterOutputs:
        """The means as `rows` rows of `length` tokens (views, not copies)."""

        def spread(mean: Tensor, width: int) -> Tensor:
            """`([pos], …)` with `width` feature dimensions as `(rows, length, …)`."""
            mean = mean.to(device)
            return (mean[:length] if self.positional else mean[None]).expand(rows, length, *mean.shape[-width:])

        return WriterOutputs(spread(self.input, 1), tuple(spread(z, 2) for z in self.z), tuple(spread(m, 1) for m in self.mlp))


def writer_means(
    model: HookedModel, readouts: Readouts, *, positional: bool = False, side: Side = "clean", batch_tokens: int | None = None
) -> WriterMeans:
    """Mean output of every writer of `model` over the `side` rows of `readouts`: prompts kept apart from those it is then measured on.

    Every visible token counts once, whatever row it is in; padding and masked positions do not count. `positional` keeps a mean per
    position of the canvas. Cost: one forward over the rows; memory: one batch's outputs and the means.
    Raises ValueError on an unknown side or readouts that do not fit the model; FloatingPointError, naming layer and hook, where an output
    is not finite.
    """
    if side not in get_args(Side):
        raise ValueError(f"writer_means: side is {side!r}; choose one of {', '.join(get_args(Side))}")
    check_given("writer_means", model, readouts)
    length = readouts.clean.shape[1]
    count = torch.zeros(length, dtype=torch.long)
    totals: Kept = {}
    with progress_bar(len(readouts), "mean outputs of the writers", "row") as bar:
        for batch in readouts.batches(batch_tokens_for(model, "writers", batch_tokens)):
            batch = batch.to(model.cfg.device)
            outputs, _ = run_writers(model, batch, side)
            visible = batch.visible(side)
            count[: visible.shape[1]] += visible.sum(0).cpu()
            for name, sums in _sums(outputs, visible).items():
                if not sums.isfinite().all():
                    raise FloatingPointError(f"writer_means: outputs are not finite; {locate_not_finite(model, batch)}")
                total = totals.setdefault(name, sums.new_zeros(sums.shape[0], length, *sums.shape[2:]))
                total[:, : sums.shape[1]] += sums
            bar.update(len(batch.index))
    means = {name: _mean(total, count, positional) for name, total in totals.items()}
    origin = provenance(model, readouts.info) | {"side": side, "n_examples": readouts.n_examples}
    return WriterMeans(means["input"][0], means["z"], means["mlp"], count if positional else count.sum(), origin)


def replaced(model: HookedModel, batch: Batch, intervention: Intervention, means: WriterMeans | None = None) -> WriterOutputs:
    """What the writers of `batch` are replaced by; "counterfactual" costs a forward of the corrupt rows, the others nothing.

    Raises ValueError where `check_intervention` does.
    """
    rows, length = batch.clean.shape
    check_intervention(model, intervention, means, batch.visible("clean"))
    if intervention == "counterfactual":
        return run_writers(model, batch, "corrupt")[0]
    if means is not None:
        return means.outputs(rows, length, model.cfg.device)
    cfg, zero = model.cfg, torch.zeros((), device=model.cfg.device)
    wide, heads = zero.expand(rows, length, cfg.d_model), zero.expand(rows, length, cfg.n_heads, cfg.d_head)
    return WriterOutputs(wide, (heads,) * cfg.n_layers, (wide,) * cfg.n_layers)


def check_intervention(model: HookedModel, intervention: str, means: WriterMeans | None, visible: Bool[Tensor, "rows pos"]) -> None:
    """Raise ValueError unless `intervention` is known and has means exactly when it needs them, fitting model and `visible` tokens."""
    if intervention not in get_args(Intervention):
        raise ValueError(f"intervention is {intervention!r}; choose one of {', '.join(get_args(Intervention))}")
    wanted = intervention.startswith("mean")
    if not wanted and means is not None:
        raise ValueError(f"intervention {intervention!r} uses no means; leave them out, or choose 'mean' or 'mean_positional'")
    if means is None:
        if wanted:
            raise ValueError(f"intervention {intervention!r} needs means=writer_means(model, other_prompts, …), from prompts kept apart")
        return
    if not isinstance(means, WriterMeans):
        raise TypeError(f"means is a {type(means).__name__}; give what writer_means(model, other_prompts, …) makes")
    if means.positional != (intervention == "mean_positional"):
        kind = "positional" if means.positional else "over all positions"
        raise ValueError(f"intervention {intervention!r} was given means {kind}; make them with positional={not means.positional}")
    for name in ("input", "z", "mlp"):
        if not getattr(means, name).isfinite().all():
            raise ValueError(f"the means hold values of {name!r} that are not finite; take them again")
    cfg = model.cfg
    theirs = (means.z.shape[0], *means.z.shape[-2:], means.input.shape[-1])
    ours = (cfg.n_layers, cfg.n_heads, cfg.d_head, cfg.d_model)
    if theirs != ours:
        raise ValueError(f"the means are of a model with (layers, heads, d_head, d_model) = {theirs}; {cfg.model_name} has {ours}")
    if means.positional:
        shown = visible.any(0).nonzero()[:, 0].tolist()
        missing = [p for p in shown if p >= len(means.count) or not means.count[p]]
        if missing:
            raise ValueError(f"the positional means hold nothing for position {missing[0]} of these rows; take them from prompts as long")


def _sums(outputs: WriterOutputs, visible: Bool[Tensor, "b pos"]) -> dict[str, Float[Tensor, "writer pos ..."]]:
    """Sums over the visible rows in float64, per writer and position."""
    weights = visible.double()
    parts = {"input": (outputs.input,), "z": outputs.z, "mlp": outputs.mlp}
    return {
        name: torch.stack([torch.einsum("bp,bp...->p...", weights, value.double()).cpu() for value in values])
        for name, values in parts.items()
    }


def _mean(total: Float[Tensor, "writer pos ..."], count: Int[Tensor, " pos"], positional: bool) -> Float[Tensor, "writer *pos ..."]:
    if not positional:
        return (total.sum(1) / count.sum()).float()
    return (total / count.clamp(min=1).view(-1, *[1] * (total.ndim - 2))).float()
