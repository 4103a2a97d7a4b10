"""From residual-stream vectors to logits, and from logits to the few numbers a lens keeps.

The final norm divides by a scale and multiplies by a weight (LayerNorm centres first and adds a bias last). At the run's own scale that is
linear: vectors that sum to the residual stream have logits that sum to the model's, and the constants (the norm's bias, b_U) go to the one
vector that holds the biases. With each vector's own scale it is TransformerLens' `logit_readout`, constants added to every vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.bridge.norms import norm_weight
from mechshift_tl.bridge.protocol import HookedModel, components_of
from mechshift_tl.bridge.weights import bias_of, weight_of

#: Bound on the logits that exist at once.
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Projection:
    """A model's final norm and unembedding in float32: `weight`, `bias (d,)`, `W_U (d, d_vocab)`, `b_U (d_vocab,)`."""

    norm: Any
    weight: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    W_U: Float[Tensor, "d d_vocab"]
    b_U: Float[Tensor, " d_vocab"]

    @classmethod
    def of(cls, model: HookedModel) -> Projection:
        """That of a TransformerLens bridge: `ln_final`, `W_U` and `b_U`."""
        norm, device = components_of(model).ln_final, model.cfg.device
        weight, bias = norm_weight(norm, device), bias_of(norm, device)
        bias = torch.zeros_like(weight) if bias is None else bias.float()
        W_U, b_U = (weight_of(components_of(model).unembed, name, device).float() for name in ("W_U", "b_U"))
        return cls(norm, weight, bias, W_U, b_U)

    def normalize(
        self, vectors: Float[Tensor, "n reads d"], scale: Float[Tensor, "reads 1"] | None, *, constant: bool
    ) -> Float[Tensor, "n reads d"]:
        """Through the final norm at `scale`, with its bias where `constant`; None: at each vector's own scale, bias and all."""
        if scale is None:
            return self.norm(vectors).to(vectors.device, torch.float32)
        if not self.norm.uses_rms_norm:
            vectors = vectors - vectors.mean(-1, keepdim=True)
        normalized = vectors / scale * self.weight
        return normalized + self.bias if constant else normalized

    def logits(self, normalized: Float[Tensor, "... d"], *, constant: bool) -> Float[Tensor, "... d_vocab"]:
        """Through W_U; `constant` adds b_U."""
        return normalized @ self.W_U + self.b_U if constant else normalized @ self.W_U

    def read(
        self,
        vectors: Float[Tensor, "n reads d"],
        scale: Float[Tensor, "reads 1"] | None,
        answers: Int[Tensor, " reads"],
        foils: Int[Tensor, " reads"],
        *,
        constant: bool,
    ) -> dict[str, Tensor]:
        """What the lens keeps of every vector (see `summarise`), each `(n, reads)`; logits exist one chunk at a time."""
        constant = constant or scale is None
        flat = self.normalize(vectors, scale, constant=constant).flatten(0, 1)
        answers, foils = answers.repeat(len(vectors)), foils.repeat(len(vectors))
        size = max(1, CHUNK_BYTES // (4 * self.W_U.shape[1]))
        parts = [
            summarise(self.logits(flat[i : i + size], constant=constant), answers[i : i + size], foils[i : i + size])
            for i in range(0, len(flat), size)
        ]
        return {name: torch.cat([part[name] for part in parts]).reshape(vectors.shape[:2]) for name in parts[0]}


def summarise(logits: Float[Tensor, "n d_vocab"], answers: Int[Tensor, " n"], foils: Int[Tensor, " n"]) -> dict[str, Tensor]:
    """Logits and ranks of answer and foil, entropy of the softmax in nats, in [0, ln d_vocab], and the top token's id; each `(n,)`."""
    answer, foil = logits.gather(1, answers[:, None]), logits.gather(1, foils[:, None])
    log_p = logits.log_softmax(-1)
    return {
        "answer": answer[:, 0],
        "foil": foil[:, 0],
        "answer_rank": ranks(logits, answer),
        "foil_rank": ranks(logits, foil),
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "top_id": logits.argmax(-1).int(),
    }


def ranks(logits: Float[Tensor, "n d_vocab"], values: Float[Tensor, "n 1"]) -> Float[Tensor, " n"]:
    """Rank of each value, 0 = top; ties share their middle rank, so a component that says nothing ranks every token at chance."""
    return (logits > values).sum(1) + ((logits == values).sum(1) - 1) / 2
