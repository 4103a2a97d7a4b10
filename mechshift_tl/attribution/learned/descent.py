"""The descent: scores of what is masked, moved step by step by the gradient of a loss through the mixed forward.

A step takes one batch. Every row of it has a size of its own (`MaskSettings.sizes`) and the soft mask of that size (`soft_top_k`), so one
run ranks for all sizes. What a step draws depends on the seed and its number alone, and its state is written to a journal every so many
steps: a run that was stopped goes on from there and ends the same.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from hooked_diffusion.seeds import step_generator
from mechshift_tl.attribution.learned.held import Batches, Held
from mechshift_tl.attribution.learned.settings import MaskSettings
from mechshift_tl.attribution.learned.soft_top_k import soft_top_k
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.mixing import mixed_logits
from mechshift_tl.runs.journal import Journal

#: Steps between two states in the journal.
KEPT_EVERY = 25


class Descent:
    """Scores `(n_masked,)` of the edges, or of the nodes, of a graph, and Adam's state."""

    def __init__(self, batches: Batches, settings: MaskSettings, start: Float[Tensor, " n_masked"], *, nodes: bool) -> None:
        self.batches, self.settings, self.nodes = batches, settings, nodes
        self.scores = start.to(batches.model.cfg.device).requires_grad_()
        self.adam = torch.optim.Adam([self.scores], lr=settings.learning_rate)
        self.done = 0
        #: Where the edges lie among writers × readers.
        self.places = self.graph.possible.flatten().nonzero()[:, 0].to(self.scores.device)

    @property
    def graph(self) -> Graph:
        """The graph that is masked."""
        return self.batches.graph

    def run(self, journal: Journal | None) -> Float[Tensor, " n_masked"]:
        """The scores after all steps."""
        if journal is not None:
            self._resume(journal)
        steps = self.settings.steps
        with tqdm(total=steps, initial=self.done, desc="learn masks", unit="step", delay=2, leave=False) as bar:
            while self.done < steps:
                self._step(self._batch(self.done))
                bar.update()
                if journal is not None and self.done % KEPT_EVERY == 0:
                    journal.write(self.done // KEPT_EVERY, self._state())
        return self.scores.detach().cpu()

    def _batch(self, step: int) -> Held:
        """The batch of a step: all of them in turn, in a new order each time around."""
        turn, place = divmod(step, len(self.batches))
        # Numbers beyond the last step's are free: the steps draw their sizes from the others.
        order = torch.randperm(len(self.batches), generator=step_generator(self.settings.seed, self.settings.steps + turn))
        return self.batches[int(order[place])]

    def _step(self, held: Held) -> None:
        for group in self.adam.param_groups:
            group["lr"] = self.settings.rate(self.done)
        sizes = self.settings.sizes(self.done, len(held.batch), len(self.scores)).to(self.scores)
        masks = self._spread(soft_top_k(self.scores, sizes, self.settings.temperature))
        logits = mixed_logits(self.batches.model, held.batch, self.graph, masks, held.base)
        (self.scores.grad,) = torch.autograd.grad(self._loss(logits, held), self.scores)
        self.adam.step()
        self.done += 1

    def _spread(self, masks: Float[Tensor, "rows n_masked"]) -> Float[Tensor, "rows n_writers n_readers"]:
        """Masks of nodes for every reader, or of edges in their places."""
        if self.nodes:
            return masks[:, :, None].expand(-1, -1, self.graph.shape[1])
        return masks.new_zeros(len(masks), self.graph.possible.numel()).index_copy(1, self.places, masks).unflatten(1, self.graph.shape)

    def _loss(self, logits: Float[Tensor, "b k d_vocab"], held: Held) -> Float[Tensor, ""]:
        """The loss of a batch: a sum over read positions, in shares of an average batch's, so that every position counts alike."""
        values = self.batches.metric.values(logits, held.batch, held.logits)
        behind = (held.clean - values) / self.batches.gap
        losses = {"deficit": behind.abs(), "squared": behind.square(), "metric": behind}[self.settings.loss]
        return losses.sum() * held.batch.k * len(self.batches) / self.batches.n_read

    def _state(self) -> dict[str, Tensor]:
        state = self.adam.state[self.scores]
        return {"scores": self.scores.detach().cpu(), **{name: state[name].cpu() for name in ("exp_avg", "exp_avg_sq")}}

    def _resume(self, journal: Journal) -> None:
        """Go on from the last state in the journal."""
        for number in range(self.settings.steps // KEPT_EVERY, 0, -1):
            if (kept := journal.read(number)) is not None:
                self.done = number * KEPT_EVERY
                with torch.no_grad():
                    self.scores.copy_(kept.pop("scores"))
                moments = {name: tensor.to(self.scores) for name, tensor in kept.items()}
                self.adam.state[self.scores] = {"step": torch.tensor(float(self.done)), **moments}
                return
