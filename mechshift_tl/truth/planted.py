"""A circuit planted in a trained model: three heads of the bundled pair are overwritten by heads whose function is known.

1. Four coordinates of the residual stream are cleared: nothing that was trained writes them or reads them.
2. Two words get a mark, + and −, in the first of them.
3. Head a1.h1 averages the mark over all it sees and writes it to the second coordinate; a3.h2 averages that and writes the third; a2.h0
   averages the mark and writes the fourth. Their queries are zero, so that they attend evenly.
4. Two answers differ in one thing: their logits read the third and fourth coordinates, with opposite signs.

So the circuit is two paths of known edges, amid a trained model that otherwise runs on, whose norms feel everything.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hooked_diffusion.pairs import load_pair
from mechshift_tl.bridge.alignment import mask_token
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts
from mechshift_tl.truth.native import Attention
from mechshift_tl.truth.truth import Truth

CLEARED = (124, 125, 126, 127)
MARK, RELAYED, OUT, DIRECT = CLEARED
#: Layer and number of each planted head, what it reads and what it writes.
HEADS = {"a1.h1": (1, 1, MARK, RELAYED), "a3.h2": (3, 2, RELAYED, OUT), "a2.h0": (2, 0, MARK, DIRECT)}
EDGES = (
    ("input", "a1.h1<v>"), ("a1.h1", "a3.h2<v>"), ("a3.h2", "logits"), ("input", "a2.h0<v>"), ("a2.h0", "logits"),
)  # fmt: skip
WORDS = (40, 41)
ANSWERS = (60, 61)
LENGTH = 12
N_EXAMPLES = 8
#: How large a mark is, how much a head multiplies what it reads, and how much the logits do.
SIZE, GAIN, LOGIT = 2.0, 12.0, 1.0


def planted(attention: Attention) -> Truth:
    """The bundled pair's ARM ("causal") or MDM ("full") with the planted circuit."""
    pair = load_pair("tiny")
    model = pair.arm if attention == "causal" else pair.mdm
    assert model is not None
    _plant(model.original_model)
    graph = Graph.of(model)
    edges = torch.zeros_like(graph.possible)
    for writer, reader in EDGES:
        edges[graph.writers.index(writer), graph.readers.index(reader)] = True
    return Truth(f"planted-{attention}", model, _readouts(model), edges)


@torch.no_grad()
def _plant(inner: nn.Module) -> None:
    # A bridge puts parts of its own between those of the model.
    weights = {name.replace("._original_component", ""): weight for name, weight in inner.named_parameters()}
    reads, writes = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head"), ("o_proj", "down_proj")
    for name, weight in weights.items():
        if any(one in name for one in reads) or "embed_tokens" in name:
            weight[:, CLEARED] = 0
        elif any(one in name for one in writes):
            weight[list(CLEARED)] = 0
        elif weight.ndim == 1:
            weight[list(CLEARED)] = 1
    for layer, head, source, target in HEADS.values():
        _overwrite({kind: _one(weights, f"layers.{layer}.self_attn.{kind}_proj") for kind in "qkvo"}, head, source, target)
    embedding, head = _one(weights, "embed_tokens"), _one(weights, "lm_head")
    head[ANSWERS[1]] = head[ANSWERS[0]]
    for word, answer, sign in zip(WORDS, ANSWERS, (1, -1), strict=True):
        embedding[word, MARK] = sign * SIZE
        head[answer, [OUT, DIRECT]] = sign * LOGIT


def _overwrite(projections: dict[str, Tensor], head: int, source: int, target: int) -> None:
    """A head that attends evenly and copies one coordinate to another."""
    width = projections["o"].shape[1] // 4
    mine = slice(head * width, (head + 1) * width)
    for kind in "qkv":
        projections[kind][mine] = 0
    projections["o"][:, mine] = 0
    projections["v"][mine.start, source] = GAIN
    projections["o"][target, mine.start] = 1


def _one(weights: Mapping[str, Tensor], part: str) -> Tensor:
    """The one weight whose name holds `part`."""
    (found,) = [weight for name, weight in weights.items() if part in name]
    return found


def _readouts(model: HookedModel) -> Readouts:
    """Random words, one of them marked; the corrupt row holds the other marked word there. The last position is read."""
    rng, rows = random.Random(0), []
    for _ in range(N_EXAMPLES):
        words, at, which = rng.choices(range(100, 300), k=LENGTH), rng.randrange(1, LENGTH - 1), rng.randrange(2)
        words[-1] = mask_token(model) or words[-1]
        sides = [[*words[:at], WORDS[i], *words[at + 1 :]] for i in (which, 1 - which)]
        rows.append((*sides, ANSWERS[which], ANSWERS[1 - which]))
    clean, corrupt, answers, foils = (torch.tensor(column) for column in zip(*rows, strict=True))
    return Readouts.from_tokens(clean, corrupt, torch.full((N_EXAMPLES,), LENGTH - 1), answers, foils)
