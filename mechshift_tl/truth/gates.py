"""Gates set by hand: two bits are carried to one position by two heads, an MLP computes the gate, a head of the next layer carries it on.

Tokens 0 and 1 are the bits, token 2 asks. Rows are `bit bit 2`, read at the last position. Each coordinate of the residual stream has one
meaning (`COORDINATES`). Heads attend by position alone: their queries are biases, their keys read a position's coordinate. Beside the
circuit stand decoys that move but are never read: a head and an MLP that copy the first bit to coordinates that nobody reads.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from mechshift_tl.readouts import Readouts
from mechshift_tl.truth.native import Attention, embeddings_of, native_model
from mechshift_tl.truth.structure import edges_in_weights
from mechshift_tl.truth.truth import Truth

COORDINATES = ("pos0", "pos1", "pos2", "bit", "first", "second", "decoy", "gate", "out", "decoy1", "decoy2")
AT = {name: i for i, name in enumerate(COORDINATES)}
SIZES = {"n_layers": 2, "n_heads": 3, "d_model": len(COORDINATES), "d_head": 1, "d_mlp": 2, "n_ctx": 3, "d_vocab": 3, "d_vocab_out": 2}
#: A head attends to one position: the score there is its square, 0 elsewhere.
SHARP = 6.0
N_EXAMPLES = 24
Bits = tuple[int, int]
#: Per gate: what each of two ReLU neurons adds to the sum of the bits, its weight in the output, and the gate itself.
GATES: dict[str, tuple[list[tuple[float, float]], Callable[[Bits], int]]] = {
    "and": ([(-1, 1.0), (0, 0.0)], lambda bits: bits[0] & bits[1]),
    "or": ([(0, 1.0), (-1, -1.0)], lambda bits: bits[0] | bits[1]),
    "xor": ([(0, 1.0), (-1, -2.0)], lambda bits: bits[0] ^ bits[1]),
}
BLIND = (
    "both bits are flipped at once and either one suffices: no edge into the gate moves alone, so exact patching and every gradient at the "
    "clean end score it 0; integrated gradients share the effect among the two"
)


def gate(name: str, attention: Attention) -> Truth:
    """A gate of `GATES`; "or-redundant" is "or" with both bits flipped from 1 to 0."""
    kind, _, redundant = name.partition("-")
    neurons, function = GATES[kind]
    weights = _weights(neurons)
    model = native_model(f"{name}-{attention}", SIZES, weights, attention)
    rows = _readouts(function, [((1, 1), (0, 0))] if redundant else None)
    edges = edges_in_weights(model, embeddings_of(weights))
    return Truth(f"{name}-{attention}", model, rows, edges, BLIND if redundant else "")


def _weights(neurons: list[tuple[float, float]]) -> dict[str, Tensor]:
    d, layers = SIZES["d_model"], range(SIZES["n_layers"])
    found = {"tok_embed.weight": torch.zeros(3, d), "pos.weight": torch.eye(3, d), "head.weight": torch.zeros(2, d)}
    found["tok_embed.weight"][1, AT["bit"]] = 1.0
    found["head.weight"][:, AT["out"]] = torch.tensor([-1.0, 1.0])
    for layer in layers:
        for part, out, into in (("q", 3, d), ("k", 3, d), ("v", 3, d), ("o", d, 3)):
            found |= {f"layers.{layer}.attn.{part}.weight": torch.zeros(out, into), f"layers.{layer}.attn.{part}.bias": torch.zeros(out)}
        for part, out, into in (("fc_in", 2, d), ("fc_out", d, 2)):
            found |= {f"layers.{layer}.mlp.{part}.weight": torch.zeros(out, into), f"layers.{layer}.mlp.{part}.bias": torch.zeros(out)}
    carriers = [("pos0", "bit", "first"), ("pos1", "bit", "second"), ("pos0", "bit", "decoy")], [("pos2", "gate", "out")]
    for layer, heads in zip(layers, carriers, strict=True):
        for head, (position, source, target) in enumerate(heads):
            _carry(found, layer, head, position, source, target)
    _decoy(found)
    mlp = "layers.0.mlp"
    found[f"{mlp}.fc_out.bias"][AT["gate"]] = -0.5  # so that the logits are ± ½
    for i, (bias, weight) in enumerate(neurons):
        found[f"{mlp}.fc_in.weight"][i, [AT["first"], AT["second"]]] = 1.0
        found[f"{mlp}.fc_in.bias"][i] = bias
        found[f"{mlp}.fc_out.weight"][AT["gate"], i] = weight
    return found


def _carry(found: dict[str, Tensor], layer: int, head: int, position: str, source: str, target: str) -> None:
    """A head that copies `source` at `position` to `target`."""
    attn = f"layers.{layer}.attn"
    found[f"{attn}.q.bias"][head] = SHARP
    found[f"{attn}.k.weight"][head, AT[position]] = SHARP
    found[f"{attn}.v.weight"][head, AT[source]] = 1.0
    found[f"{attn}.o.weight"][AT[target], head] = 1.0


def _decoy(found: dict[str, Tensor]) -> None:
    """In the second layer a head and an MLP that read what moves, and write where nobody reads."""
    _carry(found, 1, 1, "pos2", "first", "decoy1")
    found["layers.1.mlp.fc_in.weight"][0, [AT["first"], AT["decoy"]]] = 1.0
    found["layers.1.mlp.fc_out.weight"][AT["decoy2"], 0] = 1.0


def _readouts(function: Callable[[Bits], int], pairs: list[tuple[Bits, Bits]] | None) -> Readouts:
    """Pairs of rows that the gate tells apart, drawn with replacement from all there are."""
    rows = [(a, b) for a in (0, 1) for b in (0, 1)]
    known = pairs or [(clean, corrupt) for clean in rows for corrupt in rows if function(clean) != function(corrupt)]
    drawn = random.Random(0).choices(known, k=N_EXAMPLES)
    clean, corrupt = (torch.tensor([[*pair[side], 2] for pair in drawn]) for side in (0, 1))
    answers, foils = (torch.tensor([function(pair[side]) for pair in drawn]) for side in (0, 1))
    return Readouts.from_tokens(clean, corrupt, torch.full((N_EXAMPLES,), 2), answers, foils)
