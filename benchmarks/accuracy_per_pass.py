"""`python -m benchmarks.accuracy_per_pass`: how good a circuit each method finds, over what it costs.

- Cost, in forward equivalents: processor time of a method over that of one plain forward of the same model on the same prompts, both in
  this process on one thread; the least of `--repeats` runs.
- Quality on prompts kept apart: CMD (lower is better), CPR, and accuracy-AUC, the area of the share of prompts answered right over circuit
  size, in [0, 1].
- AUROC on known circuits whose attention points the same way: the mean over `TRUTHS`, against the edges that move.

It measures the bundled pair's ARM and MDM, or models of your own (`--model`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Annotated

import pandas as pd
import plotly.graph_objects as go
import torch
import typer
from plotly.subplots import make_subplots

from benchmarks.attribution import cpu
from benchmarks.measure import timed
from benchmarks.tables import markdown
from hooked_diffusion import HookedDiffusionTransformer, load_pair
from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.attribution.settings import AttributionSettings, PathSettings
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.evaluation.curve import faithfulness_curve
from mechshift_tl.intervals import seeded
from mechshift_tl.plotting import COLOURS, SYMBOLS, style
from mechshift_tl.readouts import Readouts, readouts
from mechshift_tl.report.page import write_page
from mechshift_tl.tasks import TASKS
from mechshift_tl.truth import load_truth, measure_truth

POINTS = (1, 2, 3, 5, 10, 30)
METHODS: dict[str, PathSettings] = {
    "EAP": {"method": "EAP"},
    "clean-corrupted": {"method": "clean-corrupted"},
    "RelP": {"method": "relp"},
    "GIM": {"method": "gim"},
    **{f"expected gradients {points}": {"method": "expected-gradients", "ig_steps": points} for points in (1, 3)},
    **{f"EAP-IG {points}": {"method": "EAP-IG-inputs", "ig_steps": points} for points in POINTS},
    "EAP-IG 5, RelP's rules": {"method": "EAP-IG-inputs", "ig_steps": 5, "backward": "relp"},
    "EAP-IG 5, GIM's rules": {"method": "EAP-IG-inputs", "ig_steps": 5, "backward": "gim"},
    "exact": {"method": "exact"},
}
TRUTHS = {"causal": ("xor-causal", "histogram-causal", "pattern-causal"), "full": ("xor-full", "histogram-full", "unique-sort-full")}
#: What is drawn: a column, its title.
PANELS = {"cmd": "CMD, lower is better", "accuracy": "accuracy-AUC", "cpr": "CPR", "auroc": "AUROC on known circuits"}


@dataclass(frozen=True)
class Row:
    """One method on one model: forward equivalents, and what its circuits are worth; `n` prompts scored, `held_out` others run."""

    role: str
    method: str
    cost: float
    cmd: float
    cmd_low: float
    cmd_high: float
    accuracy: float
    cpr: float
    auroc: float
    n: int
    held_out: int


def main(
    task: Annotated[str, typer.Option(help="The task of the prompts.")] = "ioi",
    n: Annotated[int, typer.Option(help="Prompts that are scored.")] = 24,
    held_out: Annotated[int, typer.Option(help="Others, on which circuits run.")] = 40,
    n_exact: Annotated[int, typer.Option(help="Prompts that exact patching scores; 0 leaves it out.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each method.")] = 2,
    model: Annotated[str | None, typer.Option(help="A checkpoint of your own in the pair's place.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the table and the figure.")] = None,
) -> None:
    """Measure every method and print one table a model."""
    torch.set_num_threads(1)
    if model is None:
        pair = load_pair("tiny")
        models = {role: one for role, one in pair.models.items() if role != "control"}
    else:
        models = {"arm": HookedDiffusionTransformer.from_pretrained(model)}
    print(f"{task}: {n} prompts scored, {held_out} kept apart; PyTorch {torch.__version__}, one thread of {cpu()}.\n", flush=True)
    truth = {direction: auroc_on_truths(names) for direction, names in TRUTHS.items()}
    rows: list[Row] = []
    for role, one in models.items():
        made = readouts(one, TASKS[task]().examples(one.tokenizer, n + held_out, seed=0))
        known = truth["causal" if one.spec.attention == "causal" else "full"]
        mine = measured(role, one, made, n, n_exact, repeats, known)
        print(f"### {role}\n\n{table(mine)}\n", flush=True)
        rows += mine
    for line in said(rows):
        print(f"- {line}", flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([asdict(row) for row in rows]).to_csv(out / "accuracy_per_pass.csv", index=False)
        write_page(figure(rows), out / "accuracy_per_pass.html", "What a method's circuits are worth, over its cost")


def measured(role: str, model: HookedModel, rows: Readouts, n: int, n_exact: int, repeats: int, known: Mapping[str, float]) -> list[Row]:
    """One row per method."""
    scored, kept = rows.select(range(n)), rows.select(range(n, rows.n_examples))
    found = []
    chance = _by_chance(attribute_edges(model, scored, AttributionSettings(method="EAP")))
    for name, settings in {"random": None, **METHODS}.items():
        given = scored.select(range(n_exact)) if name == "exact" else scored
        if settings is None:
            scores, cost = chance, 0.0
        elif name == "exact" and not n_exact:
            continue
        else:
            run = _runner(model, given, settings)
            scores = run()
            cost = _least(run, 1 if name == "exact" else repeats) / _least(lambda given=given: _forward(model, given), 2 * repeats)
        curve = faithfulness_curve(model, kept, scores, n_random=1, n_boot=50)
        by_size = curve.table[curve.table["rank"] == "magnitude"]
        right = float(torch.trapezoid(torch.tensor(by_size["accuracy"].tolist()), torch.tensor(by_size["share"].tolist())))
        values = (curve.cmd.value, curve.cmd.low, curve.cmd.high, right, curve.cpr.value, known.get(name, float("nan")))
        found.append(Row(role, name, cost, *values, given.n_examples, kept.n_examples))
        gc.collect()
    return found


def _runner(model: HookedModel, rows: Readouts, settings: PathSettings) -> Callable[[], EdgeScores]:
    return lambda: attribute_edges(model, rows, AttributionSettings(**settings))


@torch.no_grad()
def _forward(model: HookedModel, rows: Readouts) -> None:
    for batch in rows.batches(2**20):
        batch.narrowed(model).logits(model)


def _least(run: Callable[[], object], repeats: int) -> float:
    return min(timed(run) for _ in range(repeats))


def _by_chance(like: EdgeScores) -> EdgeScores:
    values = torch.randn(like.matrix.shape, generator=seeded(0)) * like.graph.possible
    return replace(like, matrix=values, per_step=values[None].expand_as(like.per_step))


def auroc_on_truths(names: tuple[str, ...]) -> dict[str, float]:
    """Mean AUROC of each method, exact patching and chance, against the edges that move."""
    methods = {name: settings for name, settings in METHODS.items() if name != "exact"}
    found: dict[str, list[float]] = {}
    for name in names:
        for row in measure_truth(load_truth(name), methods, n_boot=2):
            if row.against == "moving":
                found.setdefault(row.method, []).append(row.auroc)
    return {method: mean(values) for method, values in found.items()}


def table(rows: list[Row]) -> str:
    """A Markdown table, cheapest first."""
    lines = [
        [row.method, f"{row.cost:.1f}", f"{row.cmd:.3f} [{row.cmd_low:.3f}, {row.cmd_high:.3f}]", f"{row.accuracy:.3f}", f"{row.cpr:.2f}",
         f"{row.auroc:.2f}", str(row.n)]
        for row in sorted(rows, key=lambda one: one.cost)
    ]  # fmt: skip
    return markdown(["", "forwards", "CMD, 95 % over prompts", "accuracy-AUC", "CPR", "AUROC", "n"], lines)


def said(rows: list[Row]) -> list[str]:
    """What was asked, and whether it is so: a cheap method as good as EAP-IG at ten points, on each model."""
    lines = []
    for role in dict.fromkeys(row.role for row in rows):
        mine = {row.method: row for row in rows if row.role == role}
        base = mine["EAP-IG 10"]
        cheap = [row for row in mine.values() if row.cost <= base.cost / 5 and row.method != "random"]
        good = [row.method for row in cheap if row.cmd <= base.cmd and row.auroc >= base.auroc]
        verdict = f"Supported by {', '.join(good)}" if good else "Not supported"
        lines.append(
            f"{verdict} ({role}): at a fifth of EAP-IG 10's {base.cost:.1f} forwards, CMD at most {base.cmd:.3f} and AUROC as high."
        )
    return lines


def figure(rows: list[Row]) -> go.Figure:
    """One panel per measure: its value over cost (log scale), a colour per model."""
    drawn = make_subplots(2, 2, subplot_titles=list(PANELS.values()), horizontal_spacing=0.08, vertical_spacing=0.14)
    for i, name in enumerate(PANELS):
        for role in dict.fromkeys(row.role for row in rows):
            mine = sorted((row for row in rows if row.role == role and row.cost), key=lambda row: row.cost)
            drawn.add_scatter(
                x=[row.cost for row in mine], y=[getattr(row, name) for row in mine], text=[row.method for row in mine],
                mode="markers+text" if name == "cmd" else "markers", textposition="top center", textfont={"size": 9}, name=role.upper(),
                legendgroup=role, showlegend=not i, marker={"color": COLOURS[role], "symbol": SYMBOLS[role], "size": 7},
                hovertemplate="%{text}<br>%{x:.1f} forwards, %{y:.3f}<extra></extra>", row=i // 2 + 1, col=i % 2 + 1,
            )  # fmt: skip
    drawn.update_xaxes(type="log")
    drawn.update_xaxes(title_text="cost, forward equivalents", row=2)
    return style(drawn, 640, margin={"t": 60})


if __name__ == "__main__":
    typer.run(main)
