"""`ComponentLens`: the readings of a component lens, one per component and read position, and their summaries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.component_grid import component_grid
from mechshift_tl.graph import Graph

Norm = Literal["run", "own"]
READINGS = ("answer", "foil", "answer_rank", "foil_rank", "entropy", "spread", "top_id")


@dataclass(frozen=True)
class LensSettings:
    """How a lens reads.

    - `norm`: "run" divides each component's output by the scale of the run's final norm, so the components' logits sum to the model's;
      "own" divides it by its own scale.
    - `top`: how many of its most frequent top tokens a component shows.
    - `step`: the one step that the lens holds; None for all that were read.

    Raises ValueError on values that do not exist.
    """

    norm: Norm = "run"
    top: int = 5
    step: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm) or self.top < 1:
            raise ValueError(
                f"component_lens: norm is {self.norm!r}, top is {self.top}; choose norm from {get_args(Norm)} and top of at least 1"
            )


@dataclass(frozen=True, eq=False)
class ComponentLens(Artefact):
    """One lens reading per component and read position, `(components, reads)`.

    - `components`: ids in the graph's order: `input`, heads such as `a3.h1`, MLPs such as `m3`, and `bias` (all biases outside components).
    - `answer`, `foil`: the logits of answer and foil from this component alone; with norm "run" they sum over components to the model's.
    - `answer_rank`, `foil_rank`: rank of answer and foil among this component's logits, in [0, d_vocab), 0 = top; tied tokens share their
      middle rank.
    - `entropy`: of the softmax of this component's logits, nats, in [0, ln d_vocab]; near ln d_vocab where the component adds little.
    - `spread`: variance of this component's logits over the vocabulary, logits²; 0 where the component adds nothing.
    - `top_id`: the token that this component ranks first. `words` spells the ids that occur.
    - `step`, `example (reads,)`: the step and the example of each read.
    - `gap`: largest |Σ terms − model's logit| over reads and tokens, as a share of the largest |logit|. It comes from rounding alone.

    Raises ValueError when the tensors disagree in shape.
    """

    KIND: ClassVar[str] = "component lens"

    components: list[str]
    graph: Graph
    answer: Float[Tensor, "components reads"]
    foil: Float[Tensor, "components reads"]
    answer_rank: Float[Tensor, "components reads"]
    foil_rank: Float[Tensor, "components reads"]
    entropy: Float[Tensor, "components reads"]
    spread: Float[Tensor, "components reads"]
    top_id: Int[Tensor, "components reads"]
    step: Int[Tensor, " reads"]
    example: Int[Tensor, " reads"]
    words: dict[int, str]
    gap: float
    settings: LensSettings = LensSettings()
    provenance: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.components), len(self.step))
        for name in READINGS:
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"ComponentLens: {name} is {tuple(getattr(self, name).shape)}, not (components, reads) = {shape}")

    @property
    def effects(self) -> Float[Tensor, " components"]:
        """`(components,)`: mean logit(answer) − logit(foil) of each component, in logits. With norm "run" they sum to the metric."""
        return (self.answer - self.foil).mean(1)

    @property
    def layers(self) -> list[int]:
        """`(components,)`: layer of each component; −1 for `input` and `bias`."""
        layer_of = dict(zip(self.graph.writers, self.graph.writer_layers.tolist(), strict=True))
        return [layer_of.get(component, -1) for component in self.components]

    @property
    def steps(self) -> list[int]:
        """The steps that were read, ascending."""
        return sorted(set(self.step.tolist()))

    def at_step(self, step: int) -> ComponentLens:
        """The readings of one step alone. Raises KeyError, naming the steps that were read, on any other."""
        if step not in self.steps:
            raise KeyError(f"step {step} was not read; steps are {self.steps}")
        here = self.step == step
        readings = {name: getattr(self, name)[:, here] for name in READINGS}
        return replace(self, **readings, step=self.step[here], example=self.example[here], settings=replace(self.settings, step=step))

    def top_tokens(self, component: str) -> list[tuple[str, float]]:
        """The tokens that `component` ranks first most often, each with its share of reads, in [0, 1]; at most `settings.top` of them.

        Raises KeyError on a component that was not read.
        """
        if component not in self.components:
            raise KeyError(f"{component!r} was not read; components are {self.components[0]} … {self.components[-1]}")
        ids, counts = self.top_id[self.components.index(component)].unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)[: self.settings.top]
        return [(self.words[int(ids[i])], int(counts[i]) / len(self.step)) for i in order]

    def to_dataframe(self) -> pd.DataFrame:
        """One line per component, over all reads.

        Columns: component, layer; mean `answer_logit`, `foil_logit`, `logit_diff` (logits); median `answer_rank`, `foil_rank` (0 = top);
        mean `entropy` (nats); `answer_first`, the share of reads, in [0, 1], at which the component ranks the answer first; `top_tokens`,
        the tokens that it ranks first most often, and how often.
        """
        return pd.DataFrame(
            {
                "component": self.components,
                "layer": self.layers,
                "answer_logit": self.answer.mean(1).tolist(),
                "foil_logit": self.foil.mean(1).tolist(),
                "logit_diff": self.effects.tolist(),
                "answer_rank": np.median(self.answer_rank.numpy(), 1),
                "foil_rank": np.median(self.foil_rank.numpy(), 1),
                "entropy": self.entropy.mean(1).tolist(),
                "answer_first": (self.answer_rank == 0).float().mean(1).tolist(),
                "top_tokens": [", ".join(f"{w!r} {s:.0%}" for w, s in self.top_tokens(component)) for component in self.components],
            }
        )

    @property
    def per_step(self) -> pd.DataFrame:
        """`to_dataframe` of every step, one below the other; the first column is `step`."""
        frames = [self.at_step(step).to_dataframe() for step in self.steps]
        steps = [step for step, frame in zip(self.steps, frames, strict=True) for _ in range(len(frame))]
        frame = pd.concat(frames, ignore_index=True)
        frame.insert(0, "step", steps)
        return frame

    def top(self, n: int) -> pd.DataFrame:
        """The `n` lines of largest |logit_diff|, strongest first."""
        return self.to_dataframe().sort_values("logit_diff", key=abs, ascending=False, kind="stable", ignore_index=True).head(n)

    def figure(self) -> go.Figure:
        """Heads and MLPs by layer; colour: mean logit(answer) − logit(foil). Hovering shows each component's most frequent top tokens."""
        says = {one: ", ".join(f"{word!r} {share:.0%}" for word, share in self.top_tokens(one)) for one in self.components}
        return component_grid(dict(zip(self.components, self.effects.tolist(), strict=True)), "logits", says)

    def __repr__(self) -> str:
        return f"ComponentLens: {len(self.components)} components, {len(self.step)} reads, {len(self.steps)} steps"

    def _repr_html_(self) -> str:
        return card(str(self), f"norm {self.settings.norm}, gap {self.gap:.1e}", self.top(10))
