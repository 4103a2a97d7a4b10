"""Specialisation of several models beside each other: is the work spread over more components after diffusion training?

1. Every model's lens becomes sums per example (`views.specialisation.ExampleSums`), at all steps together and at each step.
2. The same draws of the prompts weight all models' sums, so every statistic and every contrast has an interval over prompts.
3. Averaging over steps can spread what each step concentrates. So each statistic is taken three ways: of all steps together, at each step,
   and as the mean of the steps' own values ("mean over steps").
4. Counts depend on what counts as naming, so they are repeated over a grid of `top` and `least`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.compare.paired import Contrast, paired, prompt_weights, spelled, where
from mechshift_tl.intervals import judged
from mechshift_tl.plotting import COLOURS, ROLE_NAMES, SYMBOLS, plain, style
from mechshift_tl.views.lens_table import ComponentLens
from mechshift_tl.views.specialisation import INVARIANCE, ExampleSums, SpecialisationSettings

TOGETHER, MEAN = "all steps together", "mean over steps"
#: Quantities whose scale has no meaning are contrasted as ratios, counts and shares as differences.
CONTRAST: Mapping[str, Contrast] = {"participation_ratio": "ratio", "effect_variance": "ratio", "logit_variance": "ratio"}
TOPS, LEASTS = (1, 3, 5, 10), (0.0, 0.001, 0.01, 0.05)
SHOWN = {
    "participation_ratio": "participation ratio", "gini": "Gini", "naming": "naming components", "effect_variance": "variance of effects"
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class SpecialisationComparison(JsonArtefact):
    """Specialisation by model, step and contrast.

    - `table`: one row per scope ("all steps together", "mean over steps", "step 3"), statistic and subject (a role, or a contrast such as
      "MDM − ARM"; of the participation ratio and the variances a contrast is a ratio): value, low, high (95 % over prompts).
    - `sensitivity`: naming components by role, at all steps together: one row per `top` and `least`.
    - `chance`: the share of reads at which random logits hold answer or foil among their `top` tokens.
    - `components`: heads and MLPs; `n_examples`, `n_boot`, `seed`: prompts, and draws of them.
    """

    KIND: ClassVar[str] = "specialisation_comparison"

    table: pd.DataFrame = field(repr=False)
    sensitivity: pd.DataFrame = field(repr=False)
    chance: float
    components: int
    n_examples: int
    n_boot: int
    seed: int
    settings: SpecialisationSettings = SpecialisationSettings()

    def of(self, statistic: str, subject: str, scope: str = TOGETHER) -> dict[str, float]:
        """Value, low and high of one statistic. Raises KeyError where the models lack it."""
        rows = where(self.table, scope=scope, statistic=statistic, subject=subject)
        if rows.empty:
            raise KeyError(f"no {statistic!r} of {subject!r} at {scope!r}")
        value, low, high = rows[["value", "low", "high"]].iloc[0].tolist()
        return {"value": value, "low": low, "high": high}

    @property
    def roles(self) -> list[str]:
        """The models that were compared."""
        return [one for one in self.table["subject"].unique() if one in ROLE_NAMES]

    def finding(self) -> str:
        """Whether the MDM's work is more distributed than the ARM's, and than further training alone explains."""
        values = "; ".join(
            f"{ROLE_NAMES[role]} {spelled(self.of('participation_ratio', role), 1)}, {self.of('naming', role)['value']:.0f} naming, "
            f"variance {self.of('effect_variance', role)['value']:.2f}"
            for role in self.roles
        )
        head = f"Components that do the work (participation ratio, of {self.components}): {values} (n = {self.n_examples} prompts). "
        known = [name for name in ("MDM − ARM", "MDM − control") if name in set(self.table["subject"])]
        return head + " ".join(self._judged(name) for name in known)

    def _judged(self, contrast: str) -> str:
        """One contrast in words, over all steps and as the mean of the steps."""
        together, mean = (self.of("participation_ratio", contrast, scope) for scope in (TOGETHER, MEAN))
        holds = together["low"] > 1 and mean["low"] > 1
        other = contrast.split(" − ")[1]
        return (
            f"{judged(holds)}: the MDM spreads its work over more components than the {other}: ratio {spelled(together)}, and "
            f"{spelled(mean)} as the mean of single steps."
        )

    def to_dataframe(self) -> pd.DataFrame:
        """`table`, with what each statistic is invariant to beside it."""
        kinds = list(next(iter(INVARIANCE.values())))
        return self.table.assign(**{kind: [INVARIANCE[name][kind] for name in self.table["statistic"]] for kind in kinds})

    def figure(self) -> go.Figure:
        """Four statistics of every model, filled over all steps together, open as the mean of the steps' own values."""
        figure = make_subplots(1, len(SHOWN), subplot_titles=list(SHOWN.values()), horizontal_spacing=0.07)
        for column, statistic in enumerate(SHOWN, 1):
            for scope in (TOGETHER, MEAN):
                for role in self.roles:
                    self._dot(figure, column, statistic, scope, role)
        figure.update_yaxes(rangemode="tozero")
        figure.add_annotation(
            text=plain(f"filled: all steps together; open: mean of the steps; 95 % over {self.n_examples} prompts"),
            x=0, y=-0.45, xref="paper", yref="paper", showarrow=False,
        )  # fmt: skip
        return style(figure, 380, showlegend=False, margin_b=110)

    def _dot(self, figure: go.Figure, column: int, statistic: str, scope: str, role: str) -> None:
        one = self.of(statistic, role, scope)
        symbol, label = (SYMBOLS[role], " ") if scope == TOGETHER else (f"{SYMBOLS[role]}-open", ", steps")
        bars = {"array": [one["high"] - one["value"]], "arrayminus": [one["value"] - one["low"]], "color": COLOURS[role]}
        figure.add_scatter(
            x=[ROLE_NAMES[role] + label], y=[one["value"]], error_y=bars, mode="markers",
            marker={"color": COLOURS[role], "symbol": symbol, "size": 10}, hovertemplate=f"{scope}: %{{y:.3f}}<extra></extra>",
            row=1, col=column,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        return card("SpecialisationComparison", self.finding(), where(self.table, scope=TOGETHER), self.sensitivity)


def compare_specialisation(
    lenses: Mapping[str, ComponentLens],
    settings: SpecialisationSettings | None = None,
    *,
    d_vocab: int,
    n_boot: int = 200,
    seed: int = 0,
) -> SpecialisationComparison:
    """Specialisation of every model, by role ("arm", "mdm", "control"), from lenses on the same examples.

    `d_vocab` is the size of the vocabulary, for the chance of naming. Costs no run of a model: seconds, linear in components, prompts and
    draws. Raises ValueError where the lenses hold different examples, and where `ExampleSums.of` or `prompt_weights` does.
    """
    settings = settings or SpecialisationSettings()
    n = _n_examples(lenses)
    weights = prompt_weights(n, n_boot, seed)
    frames = []
    for scope, values in _scopes(lenses, settings, weights).items():
        for statistic in INVARIANCE:
            rows = paired({role: one[statistic] for role, one in values.items()}, CONTRAST.get(statistic, "difference"))
            frames.append(rows.assign(scope=scope, statistic=statistic))
    table = pd.concat(frames, ignore_index=True).reindex(columns=["scope", "statistic", "subject", "value", "low", "high"])
    first = next(iter(lenses.values()))
    return SpecialisationComparison(
        table, _sensitivity(lenses, settings), 1 - (1 - settings.top / d_vocab) ** 2, sum(layer >= 0 for layer in first.layers), n, n_boot,
        seed, settings,
    )  # fmt: skip


Statistics = dict[str, Float[Tensor, " draws"]]


def _scopes(
    lenses: Mapping[str, ComponentLens], settings: SpecialisationSettings, weights: Float[Tensor, "draws n"]
) -> dict[str, dict[str, Statistics]]:
    """Scope → role → statistics: all steps together, the mean over steps, and each step that a model read."""
    n = weights.shape[1]
    scopes: dict[str, dict[str, Statistics]] = {TOGETHER: {}, MEAN: {}}
    for role, lens in lenses.items():
        scopes[TOGETHER][role] = ExampleSums.of(lens, settings, n).statistics(weights)
        steps = {step: ExampleSums.of(lens.at_step(step), settings, n).statistics(weights) for step in lens.steps}
        scopes[MEAN][role] = {name: torch.stack([one[name] for one in steps.values()]).nanmean(0) for name in INVARIANCE}
        for step, one in steps.items():
            scopes.setdefault(f"step {step}", {})[role] = one
    return scopes


def _sensitivity(lenses: Mapping[str, ComponentLens], settings: SpecialisationSettings) -> pd.DataFrame:
    """Naming components by role, over the grid of `top` and `least`."""
    rows = []
    for top in TOPS:
        for least in LEASTS:
            one = replace(settings, top=top, least=least)
            rows.append({"top": top, "least": least} | {role: len(ExampleSums.of(lens, one).naming()) for role, lens in lenses.items()})
    return pd.DataFrame(rows)


def _n_examples(lenses: Mapping[str, ComponentLens]) -> int:
    """How many examples the lenses share. Raises ValueError where they hold others."""
    held = {role: set(lens.example.tolist()) for role, lens in lenses.items()}
    first, *others = held.values()
    if any(one != first for one in others):
        counts = ", ".join(f"{role} {len(one)}" for role, one in held.items())
        raise ValueError(f"compare_specialisation: the lenses hold different examples ({counts}); read the same prompts in every model")
    return max(first) + 1
