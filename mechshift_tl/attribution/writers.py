"""What the writers contribute: clean − corrupt output of the input, every head and every MLP, from one run of each side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.hooks import EMBED, Kept, observe
from mechshift_tl.attribution.metrics import Metric, evaluate
from mechshift_tl.readouts import Batch, aligned_logits


@dataclass(frozen=True)
class WriterDeltas:
    """Clean − corrupt: `input (b, pos, d)`, per layer `z (b, pos, head, d_head)` and `mlp (b, pos, d)`; heads stay in head space.

    `clean`, `corrupt` are the metric's values `(b,)`; `ends` are the clean and corrupt embeddings, between which the path runs.
    """

    input: Float[Tensor, "b pos d"]
    z: list[Float[Tensor, "b pos head d_head"]]
    mlp: list[Float[Tensor, "b pos d"]]
    clean: Float[Tensor, " b"]
    corrupt: Float[Tensor, " b"]
    ends: tuple[Float[Tensor, "b pos d"], Float[Tensor, "b pos d"]]


@torch.no_grad()
def writer_deltas(model: Any, batch: Batch, metric: Metric) -> WriterDeltas:
    """Run the clean and the corrupt rows once each."""
    layers = range(model.cfg.n_layers)
    z, mlp = [f"blocks.{i}.attn.hook_z" for i in layers], [f"blocks.{i}.hook_mlp_out" for i in layers]
    (clean, clean_values), (corrupt, corrupt_values) = (
        _run(model, batch, tokens, metric, [EMBED, *z, *mlp]) for tokens in (batch.clean, batch.corrupt)
    )
    deltas = {name: (clean[name] - corrupt[name]).float() for name in clean}
    per_head = [deltas[name].reshape(*deltas[name].shape[:2], model.cfg.n_heads, -1) for name in z]
    ends = (clean[EMBED], corrupt[EMBED])
    return WriterDeltas(deltas[EMBED], per_head, [deltas[name] for name in mlp], clean_values, corrupt_values, ends)


def _run(model: Any, batch: Batch, tokens: Tensor, metric: Metric, names: list[str]) -> tuple[Kept, Tensor]:
    seen: Kept = {}
    with model.hooks(fwd_hooks=observe(names, seen)):
        logits = batch.at_targets(aligned_logits(model, tokens)).float()
    return seen, evaluate(metric, logits, batch.answer_ids, batch.foil_ids)
