"""`compare`: two attributions, or two circuits, of one graph.

1. Take a circuit of each, at the same n.
2. Measure their overlaps, and the floor: the overlaps of random circuits with the same layer profiles.
3. Measure depth profiles, early share and centre of depth, and the source and sink mass of every component.
4. With scores: also Spearman on the union of the circuits, correlations over all edges, and the edge Jaccard over n.
5. With per-example scores: all of this again on resampled prompts, for intervals, and each model's overlap with itself, for the ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import nan

import pandas as pd

from mechshift_tl.attribution.bootstrap import bootstrap, can_resample
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.bridge.kinds import check_kind
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.random import full_cell_share
from mechshift_tl.circuits.select import default_n
from mechshift_tl.compare.bounds import ceiling, floor
from mechshift_tl.compare.correlation import noise_corrected, noise_corrected_draws, score_correlations
from mechshift_tl.compare.depth import centre_of_depth, default_cut, depth_labels, depth_profile, early_curve, early_share
from mechshift_tl.compare.overlap import curve_sizes, default_k, jaccard_curve, jaccards, overlaps, spearman, top_components
from mechshift_tl.compare.result import CircuitComparison, ComparisonSettings, Statistic
from mechshift_tl.graph import Graph, check_same_graph
from mechshift_tl.intervals import Interval, interval, intervals, normal_interval

#: Overlaps whose interval is their value ± 1.96 standard deviations of the draws. A draw repeats prompts, so its circuits are noisier and
#: these overlaps lower: percentiles may leave out the value that samples of this size have. `benchmarks/coverage.py` measures both.
BY_DEVIATION = ("component_jaccard", "weighted_jaccard")


def compare(
    a: EdgeScores | Circuit,
    b: EdgeScores | Circuit,
    *,
    n: int | None = None,
    circuits: tuple[Circuit, Circuit] | None = None,
    k: int | None = None,
    cut: int | None = None,
    prune: bool = True,
    signed: bool = False,
    n_random: int = 200,
    n_boot: int = 200,
    seed: int = 0,
) -> CircuitComparison:
    """Overlap and depth of two circuits, with floor, ceiling and intervals over prompts.

    `a`, `b`: two `EdgeScores`, or two `Circuit`s. Intervals and the ceiling need scores attributed with `keep_per_example=True`, on the
    same examples; Spearman and the curve over n need scores. What is missing is None or NaN, and `notes` says why.

    - `n`, `prune`: how circuits are made from scores (`Circuit.from_scores`); bare circuits have their own.
    - `circuits`: those of the scores `a` and `b`, where `n` and `prune` have cut them already; else they are cut here.
    - `k`: components compared; by default 100, or 10 % of the components (rounded up) where that is fewer.
    - `signed`: components ranked by their summed scores instead of summed |score|.
    - `cut`: layers that count as early; by default a third of them.
    - `n_random`: redraws for the floor. `n_boot`: draws of the prompts, 0 for no intervals. `seed`: of both, and of the ceiling's splits.

    Raises ValueError when the graphs differ (names the field), a circuit is empty, a setting is out of range, a score is not finite, or the
    scores to resample come from different numbers of examples; TypeError when given scores beside a circuit.
    """
    for name, one in (("a", a), ("b", b)):
        check_kind("compare", name, one, (EdgeScores, Circuit), "the EdgeScores that attribute(model, readouts) returns, or a Circuit")
    check_same_graph(a.graph, b.graph)
    scores = _scores(a, b)
    sizes = _sizes(a.graph, n, k, cut, scored=scores is not None)
    settings = ComparisonSettings(*sizes, prune=prune, signed=signed, n_random=n_random, n_boot=n_boot, seed=seed)
    x, y = circuits or (_circuit(a, settings), _circuit(b, settings))
    named = {"a": x, "b": y}
    _check_circuits(named, a.graph, settings.n)
    values = _measure(x, y, scores, settings)

    draws, ceilings = _over_prompts(scores, settings)
    over_prompts = intervals(one.statistics for one in draws) if draws else {}
    for name in BY_DEVIATION if draws else ():
        over_prompts[name] = normal_interval(values.statistics[name], (one.statistics[name] for one in draws), 0, 1)
    corrected, corrected_over = _corrected(scores, settings)
    over_prompts |= corrected_over
    floors = floor(x, y, k=settings.k, signed=signed, n_random=n_random, seed=seed)

    return CircuitComparison(
        statistics={
            name: Statistic(value, over_prompts.get(name), floors.get(name), ceilings.get(name))
            for name, value in (values.statistics | corrected).items()
        },
        curve=_curve(scores, settings),
        profiles=_profiles(named, draws),
        early=_early(named, draws),
        components=_components(x, y, settings),
        requested=(x.requested, y.requested),
        kept=(x.kept, y.kept),
        full_cells=(full_cell_share(x), full_cell_share(y)),
        n_examples=(x.n_examples, y.n_examples),
        settings=settings,
        notes=_notes(a, b, scores, n_boot),
    )


def _sizes(graph: Graph, n: int | None, k: int | None, cut: int | None, scored: bool) -> tuple[int | None, int, int]:
    """`n`, `k` and `cut` with their defaults filled in. Raises ValueError on a size for circuits that have their own."""
    if not scored and n is not None:
        raise ValueError(f"n is {n}, but bare circuits have their own size; give EdgeScores, or leave n out")
    size = (default_n(graph) if n is None else n) if scored else None
    return size, default_k(graph) if k is None else k, default_cut(graph.n_layers) if cut is None else cut


def _over_prompts(scores: tuple[EdgeScores, EdgeScores] | None, settings: ComparisonSettings) -> tuple[list[_Measured], dict[str, float]]:
    """What is measured on each draw of the prompts, and the ceilings; neither where prompts cannot be resampled."""
    if not scores or not can_resample(*scores):
        return [], {}
    draws: list[_Measured] = []
    if settings.n_boot:
        draws = bootstrap(partial(_measure_scores, settings=settings), *scores, n_boot=settings.n_boot, seed=settings.seed)
    own = [ceiling(one, n=settings.n, k=settings.k, prune=settings.prune, signed=settings.signed, seed=settings.seed) for one in scores]
    return draws, {name: min(own[0][name], own[1][name]) for name in own[0]}


def _corrected(scores: tuple[EdgeScores, EdgeScores] | None, settings: ComparisonSettings) -> tuple[dict[str, float], dict[str, Interval]]:
    """The noise-corrected correlation and its reliabilities, NaN where prompts cannot be split, and their intervals over prompts."""
    if not scores or not can_resample(*scores):
        return dict.fromkeys(("score_correlation_corrected", "reliability_a", "reliability_b"), nan), {}
    draws = noise_corrected_draws(*scores, n_boot=settings.n_boot, seed=settings.seed) if settings.n_boot else []
    return noise_corrected(*scores), intervals(draws) if draws else {}


@dataclass(frozen=True)
class _Measured:
    """What is computed alike on the sample and on every draw.

    `statistics` by name; by circuit its profile and its early curve.
    """

    statistics: dict[str, float]
    profiles: dict[str, list[float]]
    early: dict[str, list[float]]


def _circuit(one: EdgeScores | Circuit, settings: ComparisonSettings) -> Circuit:
    return one if isinstance(one, Circuit) else Circuit.from_scores(one, settings.n, prune=settings.prune)


def _measure_scores(a: EdgeScores, b: EdgeScores, settings: ComparisonSettings) -> _Measured:
    return _measure(_circuit(a, settings), _circuit(b, settings), (a, b), settings)


def _measure(a: Circuit, b: Circuit, scores: tuple[EdgeScores, EdgeScores] | None, settings: ComparisonSettings) -> _Measured:
    statistics = overlaps(a, b, k=settings.k, signed=settings.signed)
    if scores:
        statistics["spearman"] = spearman(scores[0].matrix, scores[1].matrix, a.edges | b.edges)
        statistics |= score_correlations(*scores)
    else:
        statistics |= dict.fromkeys(("spearman", "score_spearman", "score_correlation"), nan)
    profiles = {"a": depth_profile(a), "b": depth_profile(b)}
    depths = {
        "early_share": {name: early_share(profile, settings.cut) for name, profile in profiles.items()},
        "centre": {name: centre_of_depth(profile) for name, profile in profiles.items()},
    }
    for kind, of in depths.items():
        statistics |= {f"{kind}_a": of["a"], f"{kind}_b": of["b"], f"{kind}_shift": of["b"] - of["a"]}
    early = {name: early_curve(profile).tolist() for name, profile in profiles.items()}
    return _Measured(statistics, {name: profile.tolist() for name, profile in profiles.items()}, early)


def _scores(a: EdgeScores | Circuit, b: EdgeScores | Circuit) -> tuple[EdgeScores, EdgeScores] | None:
    if isinstance(a, EdgeScores) and isinstance(b, EdgeScores):
        return a, b
    if isinstance(a, Circuit) and isinstance(b, Circuit):
        return None
    raise TypeError(f"compare was given {type(a).__name__} and {type(b).__name__}; give two EdgeScores or two Circuits")


def _check_circuits(circuits: Mapping[str, Circuit], graph: Graph, n: int | None) -> None:
    """Raise ValueError on an empty circuit, and on one that was not cut as the scores are (`n` None: bare circuits are as they are)."""
    for name, circuit in circuits.items():
        check_same_graph(graph, circuit.graph)
        if n is not None and circuit.requested != n:
            raise ValueError(f"circuit {name} was cut to {circuit.requested} edges, not {n}; give the circuits of this n, or none")
        if not circuit.kept:
            raise ValueError(
                f"circuit {name} is empty: of {circuit.requested} requested edges none scores other than 0 on a path from input to logits; "
                "ask for more, or do not prune"
            )


def _notes(a: EdgeScores | Circuit, b: EdgeScores | Circuit, scores: tuple[EdgeScores, EdgeScores] | None, n_boot: int) -> tuple[str, ...]:
    """Sentences on what could not be computed and what differs between a and b, and why."""
    notes = []
    if scores is None:
        notes.append("No intervals over prompts, ceiling, Spearman or curve over n: bare circuits; compare their EdgeScores for these.")
    elif not can_resample(*scores):
        notes.append("No intervals over prompts, no ceiling: they need keep_per_example=True and at least two examples.")
    elif not n_boot:
        notes.append("No intervals over prompts: n_boot is 0.")
    ours, theirs = (one.settings if isinstance(one, Circuit) else one.made_by() for one in (a, b))
    unlike = [f"{key} {ours.get(key)!r} and {theirs.get(key)!r}" for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    if unlike:
        notes.append(f"a and b were attributed with different settings: {', '.join(unlike)}.")
    return tuple(notes)


def _bounds(draws: list[list[float]]) -> dict[str, list[float]]:
    """Columns `low` and `high` of the entries of a vector that every draw has; no columns without draws."""
    over = [interval(entries) for entries in zip(*draws, strict=True)]
    return {"low": [one.low for one in over], "high": [one.high for one in over]} if over else {}


def _curve(scores: tuple[EdgeScores, EdgeScores] | None, settings: ComparisonSettings) -> pd.DataFrame | None:
    """Edge Jaccard over n. Its bounds take a quarter of the draws, for each draw cuts circuits of every size."""
    if not scores or settings.n is None:
        return None
    cut = partial(jaccards, sizes=curve_sizes(settings.n, scores[0].graph), prune=settings.prune)
    n_boot = -(-settings.n_boot // 4)
    draws = bootstrap(cut, *scores, n_boot=n_boot, seed=settings.seed) if n_boot and can_resample(*scores) else []
    return jaccard_curve(*scores, **cut.keywords).assign(**_bounds(draws))


def _profiles(circuits: Mapping[str, Circuit], draws: list[_Measured]) -> pd.DataFrame:
    frames = []
    for name, circuit in circuits.items():
        columns = {
            "readers": depth_profile(circuit).tolist(),
            "writers": depth_profile(circuit, at="writer").tolist(),
            "edges": depth_profile(circuit, weight="count").tolist(),
        }
        bounds = _bounds([draw.profiles[name] for draw in draws])
        frames.append(pd.DataFrame({"circuit": name, "depth": depth_labels(circuit.graph), **columns, **bounds}))
    return pd.concat(frames, ignore_index=True)


def _early(circuits: Mapping[str, Circuit], draws: list[_Measured]) -> pd.DataFrame:
    frames = []
    for name, circuit in circuits.items():
        shares = early_curve(depth_profile(circuit)).tolist()
        bounds = _bounds([draw.early[name] for draw in draws])
        frames.append(pd.DataFrame({"circuit": name, "cut": range(len(shares)), "share": shares, **bounds}))
    return pd.concat(frames, ignore_index=True)


def _components(a: Circuit, b: Circuit, settings: ComparisonSettings) -> pd.DataFrame:
    top_a, top_b = (top_components(circuit, settings.k, signed=settings.signed).tolist() for circuit in (a, b))
    frame = pd.DataFrame({"component": a.graph.components, "layer": a.graph.writer_layers[1:].tolist()})
    for name, circuit in (("a", a), ("b", b)):
        frame[f"score_{name}"] = circuit.component_scores(signed=settings.signed).tolist()
        frame[f"source_{name}"], frame[f"sink_{name}"] = circuit.sources.tolist(), circuit.sinks.tolist()
    frame["top"] = [{(True, True): "both", (True, False): "a", (False, True): "b"}.get(pair, "") for pair in zip(top_a, top_b, strict=True)]
    return frame
