"""`compare`: two attributions, or two circuits, of one graph.

1. Circuits of both, at the same n.
2. Overlaps, and their floor: the same on random circuits with the same layer profiles.
3. Depth profiles, early share, centre of depth; source and sink mass per component.
4. With scores: Spearman on the union, and the edge Jaccard over n.
5. With per-example scores: everything again on resampled prompts, and the overlaps of each model with itself as a ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pandas as pd

from mechshift_tl.attribution.scores import EdgeScores, can_resample
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.random import full_cell_share
from mechshift_tl.circuits.select import default_n
from mechshift_tl.compare.bootstrap import bootstrap
from mechshift_tl.compare.bounds import ceiling, floor
from mechshift_tl.compare.depth import centre_of_depth, default_cut, depth_labels, depth_profile, early_curve, early_share
from mechshift_tl.compare.overlap import curve_sizes, default_k, jaccard_curve, overlaps, spearman, top_components
from mechshift_tl.compare.result import CircuitComparison, Statistic
from mechshift_tl.graph import check_same_graph
from mechshift_tl.intervals import Interval

STATISTICS = (
    "edge_jaccard", "component_jaccard", "weighted_jaccard", "spearman",
    "early_share_a", "early_share_b", "early_share_shift", "centre_a", "centre_b", "centre_shift",
)  # fmt: skip


def compare(
    a: EdgeScores | Circuit,
    b: EdgeScores | Circuit,
    *,
    n: int | None = None,
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
    - `k`: components compared; by default 100, or 10 % of the components (rounded up) where that is fewer.
    - `signed`: components ranked by their summed scores instead of summed |score|.
    - `cut`: layers that count as early; by default a third of them.
    - `n_random`: redraws for the floor. `n_boot`: draws of the prompts, 0 for no intervals. `seed`: of both, and of the ceiling's splits.

    Raises ValueError when the graphs differ (names the field), a circuit is empty, a setting is out of range, a score is not finite, or the
    scores to resample come from different numbers of examples; TypeError when given scores beside a circuit.
    """
    check_same_graph(a.graph, b.graph)
    graph = a.graph
    scores = _scores(a, b)
    if scores is None and n is not None:
        raise ValueError(f"n is {n}, but bare circuits have their own size; give EdgeScores, or leave n out")
    sized = (default_n(graph) if n is None else n) if scores else None
    measure = _Measure(sized, default_k(graph) if k is None else k, default_cut(graph.n_layers) if cut is None else cut, prune, signed)
    circuits = {name: measure.circuit(one) for name, one in (("a", a), ("b", b))}
    _check_not_empty(circuits)
    x, y = circuits.values()
    values = measure.of_scores(*scores) if scores else measure.of_circuits(x, y)

    over_prompts, ceilings, notes = {}, {}, _notes(a, b, scores, n_boot)
    if scores and can_resample(*scores):
        if n_boot:
            over_prompts = bootstrap(measure.of_scores, *scores, n_boot=n_boot, seed=seed)
        own = [ceiling(one, n=measure.n, k=measure.k, prune=prune, signed=signed, seed=seed) for one in scores]
        ceilings = {name: min(own[0][name], own[1][name]) for name in own[0]}
    floors = floor(x, y, k=measure.k, signed=signed, n_random=n_random, seed=seed)

    return CircuitComparison(
        statistics={name: Statistic(values[name], over_prompts.get(name), floors.get(name), ceilings.get(name)) for name in STATISTICS},
        curve=jaccard_curve(*scores, curve_sizes(measure.n or x.requested, graph), prune=prune) if scores else None,
        profiles=_profiles(circuits, over_prompts),
        early=_early(circuits, over_prompts),
        components=_components(x, y, measure),
        requested=(x.requested, y.requested),
        kept=(x.kept, y.kept),
        full_cells=(full_cell_share(x), full_cell_share(y)),
        n_examples=(x.provenance.get("n_examples"), y.provenance.get("n_examples")),
        settings=asdict(measure) | {"n_random": n_random, "n_boot": n_boot, "seed": seed},
        notes=notes,
    )


@dataclass(frozen=True)
class _Measure:
    """Everything that is computed alike on the sample and on every draw, by name."""

    n: int | None
    k: int
    cut: int
    prune: bool
    signed: bool

    def circuit(self, one: EdgeScores | Circuit) -> Circuit:
        return one if isinstance(one, Circuit) else Circuit.from_scores(one, self.n, prune=self.prune)

    def of_scores(self, a: EdgeScores, b: EdgeScores) -> dict[str, float]:
        x, y = self.circuit(a), self.circuit(b)
        return self.of_circuits(x, y) | {"spearman": spearman(a.matrix, b.matrix, x.edges | y.edges)}

    def of_circuits(self, a: Circuit, b: Circuit) -> dict[str, float]:
        values = overlaps(a, b, k=self.k, signed=self.signed) | {"spearman": float("nan")} | self._depth(a, "a") | self._depth(b, "b")
        return values | {f"{name}_shift": values[f"{name}_b"] - values[f"{name}_a"] for name in ("early_share", "centre")}

    def _depth(self, circuit: Circuit, name: str) -> dict[str, float]:
        profile = depth_profile(circuit)
        return {
            f"early_share_{name}": early_share(profile, self.cut),
            f"centre_{name}": centre_of_depth(profile),
            **{f"early_{name}_{cut}": share for cut, share in enumerate(early_curve(profile).tolist())},
            **{f"profile_{name}_{i}": fraction for i, fraction in enumerate(profile.tolist())},
        }


def _scores(a: EdgeScores | Circuit, b: EdgeScores | Circuit) -> tuple[EdgeScores, EdgeScores] | None:
    if isinstance(a, EdgeScores) and isinstance(b, EdgeScores):
        return a, b
    if isinstance(a, Circuit) and isinstance(b, Circuit):
        return None
    raise TypeError(f"compare was given {type(a).__name__} and {type(b).__name__}; give two EdgeScores or two Circuits")


def _check_not_empty(circuits: Mapping[str, Circuit]) -> None:
    for name, circuit in circuits.items():
        if not circuit.kept:
            raise ValueError(
                f"circuit {name} is empty: of {circuit.requested} requested edges none scores other than 0 on a path from input to logits; "
                "ask for more, or do not prune"
            )


def _notes(a: EdgeScores | Circuit, b: EdgeScores | Circuit, scores: tuple[EdgeScores, EdgeScores] | None, n_boot: int) -> tuple[str, ...]:
    """What is missing or unlike, and why."""
    notes = []
    if scores is None:
        notes.append("No intervals over prompts, ceiling, Spearman or curve over n: bare circuits; compare their EdgeScores for these.")
    elif not can_resample(*scores):
        notes.append("No intervals over prompts, no ceiling: they need keep_per_example=True and at least two examples.")
    elif not n_boot:
        notes.append("No intervals over prompts: n_boot is 0.")
    unlike = [
        f"{key} {a.settings.get(key)!r} and {b.settings.get(key)!r}"
        for key in sorted({*a.settings, *b.settings})
        if a.settings.get(key) != b.settings.get(key)
    ]
    if unlike:
        notes.append(f"a and b were attributed with different settings: {', '.join(unlike)}.")
    return tuple(notes)


def _bounds(keys: list[str], over_prompts: Mapping[str, Interval]) -> dict[str, list[float]]:
    if not over_prompts:
        return {}
    return {"low": [over_prompts[key].low for key in keys], "high": [over_prompts[key].high for key in keys]}


def _profiles(circuits: Mapping[str, Circuit], over_prompts: Mapping[str, Interval]) -> pd.DataFrame:
    frames = []
    for name, circuit in circuits.items():
        columns = {
            "readers": depth_profile(circuit).tolist(),
            "writers": depth_profile(circuit, at="writer").tolist(),
            "edges": depth_profile(circuit, weight="count").tolist(),
        }
        labels = depth_labels(circuit.graph)
        bounds = _bounds([f"profile_{name}_{i}" for i in range(len(labels))], over_prompts)
        frames.append(pd.DataFrame({"circuit": name, "depth": labels, **columns, **bounds}))
    return pd.concat(frames, ignore_index=True)


def _early(circuits: Mapping[str, Circuit], over_prompts: Mapping[str, Interval]) -> pd.DataFrame:
    frames = []
    for name, circuit in circuits.items():
        shares = early_curve(depth_profile(circuit)).tolist()
        bounds = _bounds([f"early_{name}_{cut}" for cut in range(len(shares))], over_prompts)
        frames.append(pd.DataFrame({"circuit": name, "cut": range(len(shares)), "share": shares, **bounds}))
    return pd.concat(frames, ignore_index=True)


def _components(a: Circuit, b: Circuit, measure: _Measure) -> pd.DataFrame:
    top_a, top_b = (top_components(circuit, measure.k, signed=measure.signed).tolist() for circuit in (a, b))
    frame = pd.DataFrame({"component": a.graph.components, "layer": a.graph.writer_layers[1:].tolist()})
    for name, circuit in (("a", a), ("b", b)):
        frame[f"score_{name}"] = circuit.component_scores(signed=measure.signed).tolist()
        frame[f"source_{name}"], frame[f"sink_{name}"] = circuit.sources.tolist(), circuit.sinks.tolist()
    frame["top"] = [{(True, True): "both", (True, False): "a", (False, True): "b"}.get(pair, "") for pair in zip(top_a, top_b, strict=True)]
    return frame
