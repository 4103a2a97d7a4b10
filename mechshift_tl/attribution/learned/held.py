"""The batches that masks are learned on, with what every run of theirs is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.metrics import Metric
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.not_finite import locate_not_finite
from mechshift_tl.interventions.patching import Base, ends
from mechshift_tl.interventions.replaced import Intervention, WriterMeans
from mechshift_tl.readouts import Batch, Readouts

#: Bytes of bases that are kept from step to step; the other batches run their ends again.
MOST_HELD = 512 * 2**20


@dataclass(frozen=True, eq=False)
class Held:
    """A batch, its clean logits, its base, and the metric of its clean and its base run, `(rows,)` each."""

    batch: Batch
    logits: Float[Tensor, "b k d_vocab"]
    base: Base
    clean: Float[Tensor, " b"]
    corrupt: Float[Tensor, " b"]

    @property
    def nbytes(self) -> int:
        """Bytes that the base keeps."""
        outputs = self.base.writers
        streams = [outputs.input, *outputs.z, *outputs.mlp, *self.base.pre, *self.base.mid, self.base.final, *self.base.heads.values()]
        return sum(one.nbytes for one in (*streams, self.logits))


class Batches:
    """All batches, in a fixed order; their ends are run once, and kept as far as memory holds them.

    - `gap`: metric(clean) − metric(base), mean over all read positions; `n_read`: how many there are.
    - `ends (2, n_examples)`: sums of the metric over each example's read positions, clean and base.

    Raises ValueError where the two runs do not differ; FloatingPointError, naming layer and hook, where a metric is not finite.
    """

    def __init__(
        self, model: HookedModel, graph: Graph, readouts: Readouts, metric: Metric, tokens: int,
        intervention: Intervention, means: WriterMeans | None,
    ) -> None:  # fmt: skip
        self.model, self.graph, self.metric = model, graph, metric
        self.intervention: Intervention = intervention
        self.means = means
        self.batches = list(readouts.batches(tokens))
        self.n_read = int(readouts.n_read.sum())
        self.kept: dict[int, Held] = {}
        self.ends = torch.zeros(2, readouts.n_examples, dtype=torch.float64)
        for number, held in enumerate(self._all()):
            batch, example = self.batches[number], readouts.example[self.batches[number].index]
            self.ends.index_add_(1, example, batch.k * torch.stack([held.clean, held.corrupt]).double().cpu())
        clean, corrupt = (self.ends.sum(1) / self.n_read).tolist()
        self.gap = clean - corrupt
        if self.gap == 0:
            raise ValueError(f"learn_masks: {metric.name} is {clean:.4g} in the clean and in the corrupt run; give prompts that differ")

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Held:
        return self.kept.get(number) or self._run(self.batches[number])

    def _all(self) -> Iterator[Held]:
        room = MOST_HELD
        for number, batch in enumerate(self.batches):
            held = self._run(batch)
            if (room := room - held.nbytes) >= 0:
                self.kept[number] = held
            yield held

    @torch.no_grad()
    def _run(self, batch: Batch) -> Held:
        batch = batch.to(self.model.cfg.device).narrowed(self.model)
        try:
            logits, base, corrupt = ends(self.model, batch, self.graph, self.intervention, self.means)
            return Held(batch, logits, base, *(self.metric.values(one, batch, logits) for one in (logits, corrupt)))
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; {locate_not_finite(self.model, batch)}") from error
