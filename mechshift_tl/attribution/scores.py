"""`EdgeScores`: the result of an attribution, with its graph, its parts per step, and what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl import artefact
from mechshift_tl.graph import Graph


@dataclass(frozen=True)
class EdgeScores:
    """Scores of every edge, in the metric's unit per example; positive = the edge supports the behaviour.

    - `matrix (n_writers, n_readers)` float32: the mean over all read positions; exactly zero where no edge can exist.
    - `per_step (steps, n_writers, n_readers)`: each step's own mean; `matrix` is their mean weighted by `step_weights`.
    - `steps`, `n_read (steps,)`: step indices and how many positions were read at each.
    - `clean`, `corrupt`: the metric's means over the same positions.
    - `per_example (n_examples, n_writers, n_readers)`, where kept: each example's *sums* over its `read_per_example` positions, and
      `ends_per_example (2, n_examples)` the metric's clean and corrupt sums; any resample of prompts follows from them.
    """

    matrix: Float[Tensor, "n_writers n_readers"]
    graph: Graph
    per_step: Float[Tensor, "steps n_writers n_readers"]
    steps: list[int]
    n_read: list[int]
    clean: float
    corrupt: float
    n_examples: int
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    per_example: Float[Tensor, "n_examples n_writers n_readers"] | None = None
    ends_per_example: Float[Tensor, "2 n_examples"] | None = None
    read_per_example: Int[Tensor, " n_examples"] | None = None

    @property
    def writers(self) -> list[str]:
        """Row ids: `input`, `a3.h1`, `m3`."""
        return self.graph.writers

    @property
    def readers(self) -> list[str]:
        """Column ids: `a3.h1<q>`, `a3.g0<k>` or `a3.h1<k>`, `m3`, `logits`."""
        return self.graph.readers

    @property
    def effect(self) -> float:
        """metric(clean) − metric(corrupt): what the edges together explain."""
        return self.clean - self.corrupt

    @property
    def completeness_gap(self) -> float:
        """Row `input` summed, minus the effect, as a share of |effect|; tends to 0 as the path is sampled finer (Sundararajan et al.)."""
        return (self.matrix[0].sum().item() - self.effect) / max(abs(self.effect), 1e-12)

    def step(self, step: int) -> EdgeScores:
        """The scores of one step alone; its metric ends are not kept (NaN). Raises KeyError naming the steps there are."""
        if step not in self.steps:
            raise KeyError(f"step {step} was not read; steps are {self.steps}")
        i = self.steps.index(step)
        part = {"matrix": self.per_step[i], "per_step": self.per_step[i][None], "steps": [step], "n_read": [self.n_read[i]]}
        gone = {"clean": float("nan"), "corrupt": float("nan")} | dict.fromkeys(_PER_EXAMPLE)
        return replace(self, **part, **gone, settings={**self.settings, "step": step})

    def resample(self, examples: Sequence[int] | Int[Tensor, " m"]) -> EdgeScores:
        """The scores on a multiset of the examples (indices may repeat): a bootstrap draw, or one half of a split.

        Raises ValueError unless attributed with `keep_per_example=True`.
        """
        if self.per_example is None or self.read_per_example is None or self.ends_per_example is None:
            raise ValueError("these scores hold no per-example parts; attribute with keep_per_example=True to resample prompts")
        count = torch.bincount(torch.as_tensor(examples), minlength=self.n_examples).float()
        total = float(count @ self.read_per_example.float())
        matrix = torch.tensordot(count, self.per_example, 1) / total
        clean, corrupt = (self.ends_per_example @ count / total).tolist()
        return replace(
            self, matrix=matrix, per_step=matrix[None], steps=[0], n_read=[int(total)], clean=clean, corrupt=corrupt,
            n_examples=len(examples), **dict.fromkeys(_PER_EXAMPLE),
        )  # fmt: skip

    def to_dataframe(self) -> pd.DataFrame:
        """One row per possible edge, strongest |score| first: writer, reader, score, writer_layer, reader_layer."""
        return self.graph.edge_frame(self.graph.possible, self.matrix)

    def top(self, n: int) -> pd.DataFrame:
        """The `n` edges of largest |score|, strongest first."""
        return self.to_dataframe().head(n)

    def save(self, path: str | Path) -> None:
        """Write `path` (safetensors) with graph, settings and provenance in its header."""
        side = {name: getattr(self, name) for name in _SIDE} | {"graph": asdict(self.graph)}
        tensors = {name: getattr(self, name) for name in ("matrix", "per_step", *_PER_EXAMPLE)}
        artefact.write(path, "edge scores", {name: tensor for name, tensor in tensors.items() if tensor is not None}, side)

    @classmethod
    def load(cls, path: str | Path) -> EdgeScores:
        """Read what `save` wrote. Raises ValueError when the file is something else."""
        tensors, side = artefact.read(path, "edge scores", "EdgeScores.save")
        return cls(graph=Graph(**side.pop("graph")), **tensors, **side)

    def _repr_html_(self) -> str:
        head = (
            f"<b>EdgeScores</b>: {self.graph.n_edges} edges, {self.n_examples} examples, effect {self.effect:.3f}, "
            f"completeness gap {100 * self.completeness_gap:.1f} %"
        )
        return head + self.top(10).to_html(index=False, float_format="%.4f")


_SIDE = ("steps", "n_read", "clean", "corrupt", "n_examples", "settings", "provenance")
_PER_EXAMPLE = ("per_example", "ends_per_example", "read_per_example")
