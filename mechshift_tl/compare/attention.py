"""Attention of the top heads, by head id and over each model's own top heads, with intervals over prompts paired across models.

By id: the same head in every model, for the heads that are on top in any of them. Over own heads: the mean over the heads that are on top
in that model, whatever their ids, beside what a head would show that attends evenly to all that it sees. A full mask alone moves distance
and entropy: hold them against `uniform`, and against evenness, which the number of keys does not move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.compare.paired import bounds, paired, prompt_weights, spelled, where
from mechshift_tl.intervals import judged
from mechshift_tl.plotting import COLOURS, ROLE_NAMES, SYMBOLS, plain, style
from mechshift_tl.readouts import Readouts
from mechshift_tl.views.attention import QUERIES, STATISTICS, AttentionPatterns, attention_patterns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OWN, BEYOND = "own top heads", "own top heads, beyond even"
#: Statistics that the finding speaks of, in words.
TOLD = {"first": "attention to the first token", "previous": "to the previous token", "evenness": "evenness", "distance": "mean distance"}
DRAWN_HEADS = 4


@dataclass(frozen=True, eq=False)
class AttentionComparison(Artefact):
    """Attention of several models' heads.

    - `table`: one row per kind of query ("all", "read"), head ("own top heads", the same "beyond even": less what an even head shows, or
      an id), statistic and subject (a role, a contrast such as "MDM − ARM", or for own heads "uniform (mdm)"): value, low, high (95 % over
      prompts).
    - `top`: each model's top heads, strongest first. `heads`: those that are on top in any model.
    - `patterns (roles, heads, query, key)`: on the first row of one prompt, 0 where a model's row is shorter. `tokens`: that row, by role.
    """

    KIND: ClassVar[str] = "attention comparison"

    table: pd.DataFrame = field(repr=False)
    top: dict[str, list[str]]
    heads: list[str]
    patterns: Float[Tensor, "roles heads query key"] = field(repr=False)
    tokens: dict[str, list[str]] = field(repr=False)
    n_examples: int
    n_boot: int
    seed: int

    def of(self, statistic: str, subject: str, head: str = OWN, queries: str = "all") -> dict[str, float]:
        """Value, low and high. Raises KeyError where there is no such row."""
        rows = where(self.table, queries=queries, head=head, statistic=statistic, subject=subject)
        if rows.empty:
            raise KeyError(f"no {statistic!r} of {subject!r} at {head!r}, {queries!r} queries")
        return {name: float(rows[name].iloc[0]) for name in ("value", "low", "high")}

    def moved(self, contrast: str, statistic: str, queries: str = "all") -> list[str]:
        """Heads whose statistic differs between two models, by their 95 % intervals; one in twenty does by chance."""
        rows = where(self.table, queries=queries, statistic=statistic, subject=contrast)
        heads = rows.loc[(rows["low"] > 0) | (rows["high"] < 0), "head"]
        return [head for head in heads if head not in (OWN, BEYOND)]

    def finding(self) -> str:
        """What the models' own top heads attend to, and how many heads differ by id."""
        k = max(map(len, self.top.values()))
        told = "; ".join(f"{words} {self._values(name)}" for name, words in TOLD.items())
        return f"Each model's own top {k} heads, n = {self.n_examples} prompts: {told}. {self._by_id()} {self._sinks()}".strip()

    def _values(self, statistic: str) -> str:
        return ", ".join(
            f"{ROLE_NAMES[role]} {spelled(self.of(statistic, role))} (evenly {self.of(statistic, f'uniform ({role})')['value']:.2f})"
            for role in self.top
        )

    def _by_id(self) -> str:
        known = [name for name in ("MDM − ARM", "control − ARM") if name in set(self.table["subject"])]
        counts = ", ".join(f"{len(self.moved(name, 'evenness'))} for {name}" for name in known)
        chance = f"{0.05 * len(self.heads):.2f}"
        return f"Of {len(self.heads)} heads compared by id, evenness differs in {counts} ({chance} by chance)." if known else ""

    def _sinks(self) -> str:
        """Whether diffusion training moved attention to the first token beyond what further training did, and beyond what the mask does."""
        if "MDM − control" not in set(self.table["subject"]):
            return ""
        change = self.of("first", "MDM − control", BEYOND)
        holds = change["low"] > 0 or change["high"] < 0
        return (
            f"{judged(holds)}: beyond what attending evenly gives, the MDM's heads attend to the first token as the control's do not "
            f"({spelled(change)})."
        )

    def to_dataframe(self) -> pd.DataFrame:
        """`table`."""
        return self.table

    def figure(self) -> go.Figure:
        """The ARM's and the MDM's patterns on one prompt, for the strongest heads; below, what each model's own top heads attend to."""
        roles = [role for role in ("arm", "mdm") if role in self.top]
        heads = list(dict.fromkeys(head for pair in zip(*(self.top[role] for role in roles), strict=False) for head in pair))[:DRAWN_HEADS]
        titles = [f"{head}, {ROLE_NAMES[role]}" for role in roles for head in heads] + [plain(words) for words in TOLD.values()]
        columns = max(len(heads), len(TOLD))
        specs: list[list[dict[str, object] | None]] = [[{} if i < len(heads) else None for i in range(columns)] for _ in roles]
        figure = make_subplots(
            len(roles) + 1, columns, specs=[*specs, [{} for _ in range(columns)]], subplot_titles=titles, vertical_spacing=0.1
        )
        for row, role in enumerate(roles, 1):
            for column, head in enumerate(heads, 1):
                self._pattern(figure, role, head, row, column)
        for column, statistic in enumerate(TOLD, 1):
            for role in self.top:
                self._dot(figure, statistic, role, len(roles) + 1, column)
        scale = {"colorscale": [[0, "#ffffff"], [1, "#1d2733"]], "cmin": 0, "cmax": 1, "colorbar": {"thickness": 12, "title": "attention"}}
        return style(figure, 260 * (len(roles) + 1), showlegend=False, coloraxis=scale)

    def _pattern(self, figure: go.Figure, role: str, head: str, row: int, column: int) -> None:
        words = [f"{place} {plain(token)}" for place, token in enumerate(self.tokens[role])]
        values = self.patterns[list(self.top).index(role), self.heads.index(head), : len(words), : len(words)]
        hover = "%{y} → %{x}: %{z:.2f}<extra></extra>"
        figure.add_heatmap(z=values.tolist(), x=words, y=words, coloraxis="coloraxis", hovertemplate=hover, row=row, col=column)
        # Tokens that are numbers would make an axis one of numbers.
        figure.update_xaxes(type="category", showticklabels=False, showgrid=False, row=row, col=column)
        figure.update_yaxes(type="category", autorange="reversed", showticklabels=column == 1, showgrid=False, row=row, col=column)

    def _dot(self, figure: go.Figure, statistic: str, role: str, row: int, column: int) -> None:
        one, even = self.of(statistic, role), self.of(statistic, f"uniform ({role})")
        bars = {"array": [one["high"] - one["value"]], "arrayminus": [one["value"] - one["low"]], "color": COLOURS[role]}
        marker = {"color": COLOURS[role], "symbol": SYMBOLS[role], "size": 10}
        figure.add_scatter(
            x=[ROLE_NAMES[role]], y=[one["value"]], error_y=bars, mode="markers", marker=marker, hovertemplate="%{y:.3f}<extra></extra>",
            row=row, col=column,
        )  # fmt: skip
        tick = {"symbol": "line-ew", "size": 18, "line": {"width": 2, "color": COLOURS[role]}}
        hover = "attending evenly: %{y:.3f}<extra></extra>"
        figure.add_scatter(x=[ROLE_NAMES[role]], y=[even["value"]], mode="markers", marker=tick, hovertemplate=hover, row=row, col=column)

    def _repr_html_(self) -> str:
        return card("AttentionComparison", self.finding(), where(self.table, head=OWN, queries="all"))


def compare_attention(
    models: Mapping[str, HookedModel],
    readouts: Mapping[str, Readouts],
    top: Mapping[str, Sequence[str]],
    *,
    example: int = 0,
    n_boot: int = 200,
    seed: int = 0,
    batch_tokens: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> AttentionComparison:
    """The attention of the heads `top` (by role, strongest first) in every model, on the same prompts.

    Costs one forward per row and model. Raises ValueError on roles without heads, on readouts of different numbers of examples, and where
    `attention_patterns` does.
    """
    if any(not top.get(role) for role in models):
        raise ValueError(f"compare_attention: top names heads of {sorted(top)}; name at least one head for each of {sorted(models)}")
    counts = {role: readouts[role].n_examples for role in models}
    if len(set(counts.values())) > 1:
        raise ValueError(f"compare_attention: the readouts hold different numbers of examples, {counts}; read the same prompts")
    heads = sorted({head for role in models for head in top[role]})
    options = {"example": example, "batch_tokens": batch_tokens, "tokenizer": tokenizer}
    found = {role: attention_patterns(model, readouts[role], heads, **options) for role, model in models.items()}
    weights = prompt_weights(next(iter(counts.values())), n_boot, seed)
    return AttentionComparison(
        _table(found, top, weights / weights.sum(1, keepdim=True)), {role: list(top[role]) for role in models},
        next(iter(found.values())).heads, _stacked([one.pattern for one in found.values()]),
        {role: one.tokens for role, one in found.items()}, weights.shape[1], n_boot, seed,
    )  # fmt: skip


def _table(found: Mapping[str, AttentionPatterns], top: Mapping[str, Sequence[str]], weights: Float[Tensor, "draws n"]) -> pd.DataFrame:
    """The rows of `AttentionComparison.table`."""
    frames = []
    for queries in range(len(QUERIES)):
        for i, statistic in enumerate(STATISTICS):
            drawn = {role: one.values[queries, i].double() @ weights.T for role, one in found.items()}
            even = {role: one.uniform[queries, i].double() @ weights.T for role, one in found.items()}
            heads = next(iter(found.values())).heads
            own = {role: one[[heads.index(head) for head in top[role]]].mean(0) for role, one in drawn.items()}
            named = {OWN: own, BEYOND: {role: one - even[role] for role, one in own.items()}}
            named |= {head: {role: one[place] for role, one in drawn.items()} for place, head in enumerate(heads)}
            rows = [paired(values).assign(head=head) for head, values in named.items()]
            rows.append(pd.DataFrame([{"subject": f"uniform ({role})", "head": OWN, **bounds(one)} for role, one in even.items()]))
            frames.append(pd.concat(rows).assign(queries=QUERIES[queries], statistic=statistic))
    columns = ["queries", "head", "statistic", "subject", "value", "low", "high"]
    return pd.concat(frames, ignore_index=True).reindex(columns=columns)


def _stacked(patterns: Sequence[Float[Tensor, "heads query key"]]) -> Float[Tensor, "roles heads query key"]:
    """Patterns of rows of different lengths, filled up with 0."""
    longest = max(one.shape[-1] for one in patterns)
    fill = [longest - one.shape[-1] for one in patterns]
    return torch.stack([torch.nn.functional.pad(one, (0, by, 0, by)) for one, by in zip(patterns, fill, strict=True)])
