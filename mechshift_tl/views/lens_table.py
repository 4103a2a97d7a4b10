"""`ComponentLens`: what a component lens read, component by component and read by read, and what that comes to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from mechshift_tl.graph import Graph


@dataclass(frozen=True, eq=False)
class ComponentLens(Artefact):
    """One lens reading per component and read position, `(components, reads)`.

    - `components`: ids in the graph's order: `input`, `a3.h1`, `m3`, and `bias` (all biases outside components).
    - `answer`, `foil`: their logits from this component alone; with `norm="run"` they sum over components to the model's.
    - `answer_rank`, `foil_rank`: 0 = top, in [0, d_vocab); tied tokens share their middle rank.
    - `entropy`: nats of the softmax of the component's logits, in [0, ln d_vocab]; near ln d_vocab where it adds little.
    - `top_id`: the token it ranks first. `words` spells the ids that occur.
    - `step`, `example (reads,)`: where each read comes from.
    - `gap`: largest |Σ terms − model's logit| over reads and tokens, as a share of the largest |logit|; rounding only.

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
    top_id: Int[Tensor, "components reads"]
    step: Int[Tensor, " reads"]
    example: Int[Tensor, " reads"]
    words: dict[int, str]
    gap: float
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.components), len(self.step))
        for name in READINGS:
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"ComponentLens: {name} is {tuple(getattr(self, name).shape)}, not (components, reads) = {shape}")

    @property
    def effects(self) -> Float[Tensor, " components"]:
        """Mean logit(answer) − logit(foil) of each component, in logits; with `norm="run"` its share of the metric."""
        return (self.answer - self.foil).mean(1)

    @property
    def layers(self) -> list[int]:
        """Layer of each component; −1 for `input` and `bias`."""
        layer_of = dict(zip(self.graph.writers, self.graph.writer_layers.tolist(), strict=True))
        return [layer_of.get(component, -1) for component in self.components]

    @property
    def steps(self) -> list[int]:
        """Step indices that were read, ascending."""
        return sorted(set(self.step.tolist()))

    def at_step(self, step: int) -> ComponentLens:
        """The readings of one step alone. Raises KeyError naming the steps there are."""
        if step not in self.steps:
            raise KeyError(f"step {step} was not read; steps are {self.steps}")
        here = self.step == step
        readings = {name: getattr(self, name)[:, here] for name in READINGS}
        return replace(self, **readings, step=self.step[here], example=self.example[here], settings={**self.settings, "step": step})

    def top_tokens(self, component: str) -> list[tuple[str, float]]:
        """The tokens that `component` ranks first most often, with the share of reads in [0, 1]; at most the setting `top`.

        Raises KeyError on a component that was not read.
        """
        if component not in self.components:
            raise KeyError(f"{component!r} was not read; components are {self.components[0]} … {self.components[-1]}")
        ids, counts = self.top_id[self.components.index(component)].unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)[: self.settings.get("top", 5)]
        return [(self.words[int(ids[i])], int(counts[i]) / len(self.step)) for i in order]

    def to_dataframe(self) -> pd.DataFrame:
        """One line per component over all reads.

        component, layer; mean `answer_logit`, `foil_logit`, `logit_diff` (logits); median `answer_rank`, `foil_rank` (0 = top); mean
        `entropy` (nats); `answer_first`, the share of reads in [0, 1] whose answer it alone ranks first; `top_tokens`, the tokens it ranks
        first most often and how often.
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
        """`to_dataframe` of every step, one below the other, with a leading column `step`."""
        frames = [self.at_step(step).to_dataframe() for step in self.steps]
        steps = [step for step, frame in zip(self.steps, frames, strict=True) for _ in range(len(frame))]
        frame = pd.concat(frames, ignore_index=True)
        frame.insert(0, "step", steps)
        return frame

    def top(self, n: int) -> pd.DataFrame:
        """The `n` lines of largest |logit_diff|, strongest first."""
        return self.to_dataframe().sort_values("logit_diff", key=abs, ascending=False, kind="stable", ignore_index=True).head(n)

    def __repr__(self) -> str:
        return f"ComponentLens: {len(self.components)} components, {len(self.step)} reads, {len(self.steps)} steps"

    def _repr_html_(self) -> str:
        head = f"<b>{self}</b>, norm {self.settings.get('norm')}, gap {self.gap:.1e}"
        return head + self.top(10).to_html(index=False, float_format="%.3f")


READINGS = ("answer", "foil", "answer_rank", "foil_rank", "entropy", "top_id")
