"""How well each method finds the edges that are known, on each truth, with intervals over prompts.

1. Every method scores every edge of the truth's model, each prompt kept apart.
2. Prompts are drawn with replacement; on every draw the mean scores are held against both sets of true edges (`separation`).
3. "random" scores edges by chance, anew on every draw.

Cost: exact patching of all edges, and one attribution for each method.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.attribution.completeness import Incomplete
from mechshift_tl.attribution.rules import BackwardRule
from mechshift_tl.attribution.settings import AttributionSettings, PathSettings
from mechshift_tl.bridge.protocol import is_native
from mechshift_tl.intervals import interval, sample_and_draws, seeded
from mechshift_tl.truth.load import load_truth, truths
from mechshift_tl.truth.result import TruthScore, TruthTable
from mechshift_tl.truth.separation import auroc, average_precision
from mechshift_tl.truth.truth import Truth, moving

#: What is measured by default: names, and the path settings of `attribute` that they stand for.
METHODS: dict[str, PathSettings] = {
    "EAP": {"method": "EAP"},
    "clean-corrupted": {"method": "clean-corrupted"},
    "RelP": {"method": "relp"},
    "GIM": {"method": "gim"},
    "expected gradients": {"method": "expected-gradients", "ig_steps": 5},
    "EAP-IG 1": {"method": "EAP-IG-inputs", "ig_steps": 1},
    "EAP-IG 5": {"method": "EAP-IG-inputs", "ig_steps": 5},
    "EAP-IG 10": {"method": "EAP-IG-inputs", "ig_steps": 10},
    "EAP-IG 30": {"method": "EAP-IG-inputs", "ig_steps": 30},
    "EAP-IG gap 0.02": {"method": "EAP-IG-inputs", "gap": 0.02},
}
EXACT, RANDOM = "exact", "random"
#: GIM without its rule for the softmax, which needs scores that TransformerLens' own attention does not show.
GIM_OF_NATIVE: tuple[BackwardRule, ...] = ("norms", "products", "qkv")


def measure_truths(
    names: Sequence[str] | None = None, methods: Mapping[str, PathSettings] = METHODS, *, n_boot: int = 50, seed: int = 0
) -> TruthTable:
    """AUROC and average precision of `methods`, exact patching and chance on the truths of those names, by default all.

    `n_boot`, `seed`: draws of the prompts. Raises ValueError on an unknown name, before any work.
    """
    wanted = check_names(names)
    rows: list[TruthScore] = []
    for name in tqdm(wanted, desc="truths", delay=2, leave=False):
        rows += measure_truth(load_truth(name), methods, n_boot=n_boot, seed=seed)
    return TruthTable(tuple(rows), n_boot, seed)


def check_names(names: Sequence[str] | None) -> list[str]:
    """The names of truths, all for None. Raises ValueError on an unknown name, or none."""
    wanted = truths() if names is None else list(names)
    if unknown := [name for name in wanted if name not in truths()] or ([""] if not wanted else []):
        raise ValueError(f"truth: {unknown[0]!r} is unknown; choose of {', '.join(truths())}")
    return wanted


def chosen_methods(names: Sequence[str] | None) -> dict[str, PathSettings]:
    """Those of `METHODS` that were named, all for None. Raises ValueError on an unknown name, or none."""
    wanted = list(METHODS) if names is None else list(names)
    if unknown := [name for name in wanted if name not in METHODS] or ([""] if not wanted else []):
        raise ValueError(f"truth: method {unknown[0]!r} is unknown; choose of {', '.join(METHODS)}")
    return {name: METHODS[name] for name in wanted}


def measure_truth(truth: Truth, methods: Mapping[str, PathSettings] = METHODS, *, n_boot: int = 50, seed: int = 0) -> list[TruthScore]:
    """One row per method and set of true edges."""
    possible = truth.graph.possible
    effects = _per_example(truth, {"method": "exact"})
    sets = {"program": truth.program_edges[possible].numpy(), "moving": moving(effects)[possible].numpy()}
    counts = sample_and_draws(truth.readouts.n_examples, n_boot, seed).float()
    chance = torch.rand(n_boot + 1, int(possible.sum()), generator=seeded(seed)).numpy()
    rows = _rows(truth, RANDOM, chance, sets) + _rows(truth, EXACT, _drawn(effects, counts, possible), sets)
    for name, settings in methods.items():
        scores = _per_example(truth, _suited(settings) if is_native(truth.model) else settings)
        rows += _rows(truth, name, _drawn(scores, counts, possible), sets)
    return rows


def _suited(settings: PathSettings) -> PathSettings:
    """The settings for a model of TransformerLens' own."""
    if settings.get("method") == "gim":
        return {"method": "eap", "backward": GIM_OF_NATIVE}
    return {**settings, "backward": GIM_OF_NATIVE} if settings.get("backward") == "gim" else settings


def _per_example(truth: Truth, settings: PathSettings) -> Float[Tensor, "n_examples n_writers n_readers"]:
    with warnings.catch_warnings():
        # A program's steps are too steep for any path to be complete; the table shows what its scores are worth.
        warnings.simplefilter("ignore", Incomplete)
        scores = attribute_edges(truth.model, truth.readouts, AttributionSettings(**settings, keep_per_example=True)).per_example
    assert scores is not None
    return scores


def _drawn(scores: Float[Tensor, "n u v"], counts: Float[Tensor, "draws n"], possible: Bool[Tensor, "u v"]) -> Float[np.ndarray, "draws m"]:
    return (counts @ scores[:, possible]).numpy()


def _rows(truth: Truth, method: str, draws: Float[np.ndarray, "draws m"], sets: Mapping[str, Bool[np.ndarray, " m"]]) -> list[TruthScore]:
    rows = []
    for against, true in sets.items():
        areas, precisions = ([one(scores, true) for scores in draws] for one in (auroc, average_precision))
        # The first draw is the prompts themselves; scores by chance have no such one.
        first = (lambda values: float(np.mean(values))) if method == RANDOM else (lambda values: values[0])
        rows.append(
            TruthScore(
                truth.name, method, against, first(areas), interval(areas[1:]), first(precisions), interval(precisions[1:]),
                int(true.sum()), len(true), truth.readouts.n_examples, truth.note,
            )
        )  # fmt: skip
    return rows
