"""From vectors of the residual stream to logits, and from logits to the few numbers that a lens keeps.

The final norm divides by a scale and multiplies by a weight; LayerNorm also subtracts the mean first and adds a bias last.

- At the scale of the run this is linear: vectors that sum to the residual stream have logits that sum to the model's. The constants (the
  norm's bias, b_U) are added to one vector alone, the one that holds the biases.
- At each vector's own scale this is TransformerLens' `logit_readout`; the constants are added to every vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.bridge.norms import centers, norm_weight
from mechshift_tl.bridge.protocol import HookedModel, Norm, components_of
from mechshift_tl.bridge.weights import bias_of, weight_of

#: Most memory that logits take at one time.
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Projection:
    """A model's final norm and unembedding in float32: `weight`, `bias (d,)`, `W_U (d, d_vocab)`, `b_U (d_vocab,)`."""

    norm: Norm
    weight: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    W_U: Float[Tensor, "d d_vocab"]
    b_U: Float[Tensor, " d_vocab"]

    @classmethod
    def of(cls, model: HookedModel) -> Projection:
        """The projection of a TransformerLens bridge: its `ln_final`, `W_U` and `b_U`."""
        norm, device = components_of(model).ln_final, model.cfg.device
        weight, bias = norm_weight(norm, device), bias_of(norm, device)
        bias = torch.zeros_like(weight) if bias is None else bias.float()
        W_U, b_U = (weight_of(components_of(model).unembed, name, device).float() for name in ("W_U", "b_U"))
        return cls(norm, weight, bias, W_U, b_U)

    def normalize(
        self, vectors: Float[Tensor, "n reads d"], scale: Float[Tensor, "reads 1"] | None, *, constant: bool
    ) -> Float[Tensor, "n reads d"]:
        """The vectors after the final norm at `scale`; `constant` adds the norm's bias.

        Where `scale` is None, each vector has its own scale, and the bias is always added.
        """
        if scale is None:
            return self.norm(vectors).to(vectors.device, torch.float32)
        if centers(self.norm):
            vectors = vectors - vectors.mean(-1, keepdim=True)
        normalized = vectors / scale * self.weight
        return normalized + self.bias if constant else normalized

    def logits(self, normalized: Float[Tensor, "... d"], *, constant: bool) -> Float[Tensor, "... d_vocab"]:
        """The logits of normalised vectors; `constant` adds b_U."""
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
        """The numbers that `summarise` gives, each `(n, reads)`. Memory holds one chunk of logits at a time."""
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
    """Seven numbers per line of logits, each `(n,)`: the logits and ranks of answer and foil, entropy, spread, the top token's id.

    `entropy` is that of the softmax, in nats, in [0, ln d_vocab]; `spread` the variance of the logits over the vocabulary, in logits².
    """
    answer, foil = logits.gather(1, answers[:, None]), logits.gather(1, foils[:, None])
    log_p = logits.log_softmax(-1)
    return {
        "answer": answer[:, 0],
        "foil": foil[:, 0],
        "answer_rank": ranks(logits, answer),
        "foil_rank": ranks(logits, foil),
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "spread": logits.var(-1, correction=0),
        "top_id": logits.argmax(-1).int(),
    }


def ranks(logits: Float[Tensor, "n d_vocab"], values: Float[Tensor, "n 1"]) -> Float[Tensor, " n"]:
    """`(n,)`: rank of each value in its line of logits, 0 = top.

    Tied tokens share their middle rank. So a component whose logits are all equal ranks every token in the middle, at chance.
    """
    return (logits > values).sum(1) + ((logits == values).sum(1) - 1) / 2
