"""Where heads look: how much of a head's attention goes to itself, to its neighbours, to the first token, and how far and wide it spreads.

1. Run the clean canvases. Read every head's pattern, after the softmax, as it passes (`attn.hook_pattern`).
2. Measure each query's row of it (`STATISTICS`), and average over queries: over all visible positions but the first, which a causal model
   cannot look away from, or over the positions that predict a target ("read").
3. Average over an example's rows, so that every example counts once.

A causal head sees fewer keys than one that sees all, so distance and entropy differ by the mask alone. `uniform` says what a head would
show that attends evenly to all that it sees, and evenness is entropy as a share of what that head has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.attention import attention_mask_4d
from hooked_diffusion.html import card
from hooked_diffusion.progress import progress_bar
from mechshift_tl.bridge.alignment import is_causal
from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.hooks import Kept, capture
from mechshift_tl.bridge.protocol import HookedModel, says_how_it_is_read
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import ABSENT, Batch, Readouts
from mechshift_tl.runs.provenance import provenance
from mechshift_tl.views.attention_figure import draw_patterns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUERIES = ("all", "read")
#: Attention to the query itself, to the positions before and after it, to the row's first token (the usual sink), each in [0, 1]; mean
#: distance in positions; entropy in nats; evenness: entropy over the logarithm of the number of keys seen, in [0, 1].
STATISTICS = ("self", "previous", "next", "first", "distance", "entropy", "evenness")


@dataclass(frozen=True, eq=False)
class AttentionPatterns(Artefact):
    """Statistics of every head's pattern, per example.

    - `values (queries, statistics, heads, examples)`: in the order of `QUERIES` and `STATISTICS`.
    - `uniform (queries, statistics, examples)`: of a head that attends evenly to all that it sees.
    - `pattern (heads, query, key)`: the pattern on one row, the first of example `example`; rows of it sum to 1. `tokens` spell the row.

    Raises ValueError when the tensors disagree in shape.
    """

    KIND: ClassVar[str] = "attention patterns"

    heads: list[str]
    values: Float[Tensor, "queries statistics heads examples"]
    uniform: Float[Tensor, "queries statistics examples"]
    pattern: Float[Tensor, "heads query key"]
    tokens: list[str]
    example: int = 0
    provenance: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = (len(QUERIES), len(STATISTICS), len(self.heads))
        if tuple(self.values.shape[:3]) != counts or self.pattern.shape[0] != len(self.heads):
            raise ValueError(f"AttentionPatterns: values are {tuple(self.values.shape)}, not {counts} by examples")

    def of(self, statistic: str, queries: str = "all") -> Float[Tensor, "heads examples"]:
        """`(heads, examples)`: one statistic. Raises ValueError, naming those there are, on another name."""
        if statistic not in STATISTICS or queries not in QUERIES:
            raise ValueError(f"attention: no {statistic!r} of {queries!r} queries; choose from {STATISTICS} and {QUERIES}")
        return self.values[QUERIES.index(queries), STATISTICS.index(statistic)]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per kind of query and head, and one `uniform`: queries, head, and the mean over examples of each statistic."""
        frames = []
        for name, values, uniform in zip(QUERIES, self.values, self.uniform, strict=True):
            means = torch.cat([values, uniform[:, None]], 1).mean(-1)
            columns = dict(zip(STATISTICS, means.tolist(), strict=True))
            frames.append(pd.DataFrame({"queries": name, "head": [*self.heads, "uniform"], **columns}))
        return pd.concat(frames, ignore_index=True)

    def figure(self, n: int = 8) -> go.Figure:
        """The patterns of the first `n` heads on one row: query (down) × key (across), each with its tokens; colour: weight."""
        return draw_patterns(self.heads[:n], self.pattern[:n], self.tokens)

    def _repr_html_(self) -> str:
        text = f"{len(self.heads)} heads, {self.values.shape[-1]} examples"
        return card("AttentionPatterns", text, self.to_dataframe().head(10))


def attention_patterns(
    model: HookedModel,
    readouts: Readouts,
    heads: Sequence[str] | None = None,
    *,
    example: int = 0,
    batch_tokens: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> AttentionPatterns:
    """Statistics `(queries, statistics, heads, examples)` of the heads' attention on the clean canvases of `readouts`.

    - `heads`: ids such as `a3.h1`; by default all of them. They keep the graph's order.
    - `example`: whose first row is kept as a whole, as a picture. `tokenizer`: spells its tokens; by default the model's, else `#id`.
    - `batch_tokens`: tokens per forward, at least one row; by default 8192, or fewer where the logits would exceed 512 MiB.

    Costs one forward per row. Raises ValueError, before any forward, on unknown heads, an example that is not there, and readouts that do
    not fit the model.
    """
    wanted = _wanted(Graph.of(model), heads)
    if not 0 <= example < readouts.n_examples:
        raise ValueError(f"attention_patterns: example is {example}; the readouts have 0 … {readouts.n_examples - 1}")
    readouts.check(model)
    shape = (len(QUERIES), len(STATISTICS), len(wanted) + 1, readouts.n_examples)
    sums, counts = torch.zeros(shape, dtype=torch.double), torch.zeros(len(QUERIES), readouts.n_examples, dtype=torch.double)
    with progress_bar(len(readouts), f"attention of {len(wanted)} heads", "row") as bar:
        for batch in readouts.batches(batch_tokens_for(model, "logits", batch_tokens)):
            of = readouts.example[batch.index]
            found, weights = _of_batch(model, batch.to(model.cfg.device), wanted)
            sums.index_add_(3, of, found.double().cpu())
            counts.index_add_(1, of, weights.double().cpu())
            bar.update(len(batch.index))
    means = (sums / counts[:, None, None]).float()
    pattern, tokens = _picture(model, readouts, example, wanted, tokenizer)
    return AttentionPatterns(
        list(wanted), means[:, :, :-1].contiguous(), means[:, :, -1].contiguous(), pattern, tokens, example,
        provenance(model, readouts.info),
    )  # fmt: skip


def _wanted(graph: Graph, heads: Sequence[str] | None) -> dict[str, tuple[int, int]]:
    """Layer and head of each id, in the graph's order."""
    known = {f"a{layer}.h{head}": (layer, head) for layer in range(graph.n_layers) for head in range(graph.n_heads)}
    unknown = set(heads or ()) - set(known)
    if unknown or (heads is not None and not heads):
        given = ", ".join(sorted(unknown)) or "an empty list"
        raise ValueError(f"attention_patterns: {given} names no head of this model; name some of a0.h0 … {list(known)[-1]}")
    return {name: place for name, place in known.items() if heads is None or name in heads}


def _of_batch(
    model: HookedModel, batch: Batch, wanted: dict[str, tuple[int, int]]
) -> tuple[Float[Tensor, "queries statistics heads1 rows"], Float[Tensor, "queries rows"]]:
    """Sums over queries of the statistics of the wanted heads and, last, of the uniform one; and how many queries each sum is over."""
    visible = batch.visible("clean")
    sees = seen_by(model, visible)
    counted = torch.stack([_all_but_first(visible), _times_read(batch, model)]).float()

    def summed(pattern: Float[Tensor, "rows heads query key"]) -> Float[Tensor, "queries statistics heads rows"]:
        return torch.einsum("rhsq,krq->kshr", query_statistics(pattern, sees, visible), counted)

    parts = [summed(pattern) for pattern in _patterns(model, batch, wanted)]
    return torch.cat([*parts, summed(sees[:, None].float() / sees.sum(-1)[:, None, :, None])], 2), counted.sum(-1)


def _patterns(model: HookedModel, batch: Batch, wanted: dict[str, tuple[int, int]]) -> list[Float[Tensor, "rows heads query key"]]:
    """The wanted heads' patterns, layer by layer."""
    found: Kept = {}

    def of_heads(pattern: Tensor, heads: list[int]) -> Tensor:
        return pattern[:, heads].detach().to(batch.clean.device, torch.float32)

    heads_of: dict[int, list[int]] = {}
    for layer, head in wanted.values():
        heads_of.setdefault(layer, []).append(head)
    names = {layer: f"blocks.{layer}.attn.hook_pattern" for layer in sorted(heads_of)}
    hooks = [hook for layer, name in names.items() for hook in capture([name], found, take=partial(of_heads, heads=heads_of[layer]))]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        batch.logits(model)
    return [found[name] for name in names.values()]


def seen_by(model: HookedModel, visible: Bool[Tensor, "rows pos"]) -> Bool[Tensor, "rows query key"]:
    """`(rows, query, key)`: True where the query sees the key, in the direction of attention now in force."""
    if says_how_it_is_read(model):
        return attention_mask_4d(visible, model.direction, model.spec.block_length)[:, 0]
    return attention_mask_4d(visible, "causal" if is_causal(model) else "full")[:, 0]


def query_statistics(
    pattern: Float[Tensor, "rows heads query key"], sees: Bool[Tensor, "rows query key"], visible: Bool[Tensor, "rows pos"]
) -> Float[Tensor, "rows heads statistics query"]:
    """`(rows, heads, statistics, query)`: every query's statistics, in the order of `STATISTICS`."""
    length = pattern.shape[-1]
    place = torch.arange(length, device=pattern.device)
    first = visible.long().argmax(1)[:, None, None, None].expand(*pattern.shape[:3], 1)
    entropy = -torch.special.xlogy(pattern, pattern).sum(-1)
    pad = torch.nn.functional.pad
    found = {
        "self": pattern.diagonal(dim1=2, dim2=3),
        "previous": pad(pattern.diagonal(-1, 2, 3), (1, 0)),
        "next": pad(pattern.diagonal(1, 2, 3), (0, 1)),
        "first": pattern.gather(3, first)[..., 0],
        "distance": (pattern * (place[:, None] - place).abs()).sum(-1),
        "entropy": entropy,
        "evenness": entropy / sees.sum(-1).clamp_min(2).log()[:, None],  # who sees one key has no entropy to share
    }
    return torch.stack([found[name] for name in STATISTICS], 2)


def _all_but_first(visible: Bool[Tensor, "rows pos"]) -> Bool[Tensor, "rows pos"]:
    return visible & (visible.cumsum(1) > 1)


def _times_read(batch: Batch, model: HookedModel) -> Int[Tensor, "rows pos"]:
    """How often each position predicts a target."""
    at = batch.predicting(model)
    return torch.zeros_like(batch.clean).scatter_add_(1, at, torch.ones_like(at))


def _picture(
    model: HookedModel, readouts: Readouts, example: int, wanted: dict[str, tuple[int, int]], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[Float[Tensor, "heads query key"], list[str]]:
    """The patterns on the example's first row, and its tokens."""
    row = readouts.select([example])
    batch = next(row.batches(int((row.clean[0] != ABSENT).sum()))).rows(slice(0, 1)).to(model.cfg.device)
    spell = tokenizer or model.tokenizer
    tokens = [f"#{token}" if spell is None else str(spell.decode([token])) for token in batch.clean[0].tolist()]
    return torch.cat([one[0] for one in _patterns(model, batch, wanted)]).cpu(), tokens
