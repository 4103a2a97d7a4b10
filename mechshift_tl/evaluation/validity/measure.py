"""Does a method's score of an edge say what patching that edge really does? Correlation of each method with exact edge patching, on one
model.

1. Score every edge by the method `rank_by`. Take the `n_top` edges of largest |score|, and `n_random` of the others, drawn by `seed`.
2. Patch these edges exactly (`attribution.exact`), and score them by every method. All use the same readouts; each example is kept apart.
3. Correlate each method's signed scores with the exact effects, over the edges: Spearman (order) and Pearson (proportion).
4. Draw the prompts with replacement, the same ones for scores and effects, and correlate again: this gives 95 % intervals.

The intervals are over prompts. Another draw of random edges moves the value as well, which they do not show. The correlation over all
chosen edges depends much on how far the top lies from the rest, so top edges and random edges also get correlations of their own. A method
that orders edges worse in one model than in the other makes their circuits overlap less, whatever the models do; `validity_note` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from numbers import Integral

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.attribution.metrics import MetricLike, resolve
from mechshift_tl.attribution.path import DEFAULT_STEPS, SAMPLED
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.attribution.settings import AttributionSettings, PathSettings, path_settings
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.select import strongest
from mechshift_tl.evaluation.validity.result import Validity
from mechshift_tl.graph import KV
from mechshift_tl.intervals import drawn_examples, seeded
from mechshift_tl.interventions.replaced import Intervention, WriterMeans
from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts.rows import check_given

#: What is held against exact patching by default: names, and the path settings of `attribute` that they stand for.
METHODS: dict[str, PathSettings] = {
    "EAP": {"method": "EAP"},
    "clean-corrupted": {"method": "clean-corrupted"},
    "EAP-IG left": {"method": "EAP-IG-inputs", "rule": "left"},
    "EAP-IG right": {"method": "EAP-IG-inputs", "rule": "right"},
    "EAP-IG midpoint": {"method": "EAP-IG-inputs", "rule": "midpoint"},
    "EAP-IG Gauss–Legendre": {"method": "EAP-IG-inputs", "rule": "gauss-legendre"},
    "EAP-IG activations": {"method": "EAP-IG-activations"},
    "expected gradients": {"method": "expected-gradients", "ig_steps": 1},
    "RelP": {"method": "relp"},
    "GIM": {"method": "gim"},
}
RANK_BY = "EAP-IG midpoint"


def validity(
    model: HookedModel,
    readouts: Readouts,
    *,
    n_top: int = 200,
    n_random: int = 200,
    methods: Mapping[str, PathSettings] = METHODS,
    rank_by: str = RANK_BY,
    ig_steps: int | None = None,
    gap: float | None = None,
    n_boot: int = 200,
    seed: int = 0,
    kv: KV = "grouped",
    metric: MetricLike = "logit_diff",
    intervention: Intervention = "counterfactual",
    means: WriterMeans | None = None,
    batch_tokens: int | None = None,
) -> Validity:
    """Hold `methods` against exact patching, on the `n_top` strongest edges by `rank_by` and `n_random` others.

    - A graph with fewer edges than that gives all of them. `n_boot`, `seed`: draws of the prompts, and of the other edges.
    - `methods`: names, and the path settings of `attribute` that each stands for.
    - `ig_steps`: points on the path of the methods that integrate and name no number of their own, 5 unless given; or the `gap` that
      chooses them (paths of activations take 5 then).
    - `kv`, `metric`, `intervention`, `means`, `batch_tokens`: of every method, as `attribute` takes them.

    Cost: the methods' attributions, and exact patching of the edges, which mostly is more. Memory: every edge of every example for one
    method at a time. Raises ValueError, before any run, on numbers that cannot be and on a `rank_by` that is none of `methods`.
    """
    check_given("validity", model, readouts)
    check_asked(methods, rank_by, {"n_top": n_top, "n_random": n_random, "n_boot": n_boot})
    if readouts.n_examples < 2:
        raise ValueError(f"validity: {readouts.n_examples} example; intervals over prompts need at least 2")
    drawn_examples(readouts.n_examples, n_boot, seed)  # raises on a seed and on draws that would fail only when the work is done
    if gap is not None and ig_steps is not None:
        raise ValueError(f"validity: gap={gap} chooses the number of points; leave out ig_steps (got {ig_steps}), or gap")
    function = resolve(metric)
    shared = AttributionSettings(
        method="exact", kv=kv, metric=function.name, intervention=intervention, keep_per_example=True, batch_tokens=batch_tokens
    )
    asked = {name: with_points(one, ig_steps, gap) for name, one in methods.items()}
    scored = partial(attribute_edges, model, readouts, metric=function, means=means)
    # This method is scored once: its scores are also among the parts below.
    ranked = scored(replace(shared, **asked[rank_by]))
    edges, top = chosen(ranked, n_top, n_random, seed)
    mask = torch.zeros_like(ranked.graph.possible)
    mask[tuple(edges.T)] = True
    exact = scored(shared, edges=mask)
    # Only the chosen edges of a method are kept: all edges of all examples take many times the memory.
    each = (ranked if name == rank_by else scored(replace(shared, **one)) for name, one in asked.items())
    parts, gaps = zip(*((_parts(one, edges), _missed(one)) for one in each), strict=True)
    assert exact.read_per_example is not None
    return Validity(
        graph=ranked.graph, edges=edges, top=top, exact=_parts(exact, edges), approximate=torch.stack(parts), read=exact.read_per_example,
        gaps=list(gaps), alone=_alone(exact, mask),
        methods=list(asked), rank_by=rank_by, n_boot=n_boot, seed=seed, settings={"methods": asked, **shared.defining()},
        provenance=exact.provenance,
    )  # fmt: skip


def _missed(scores: EdgeScores) -> float | None:
    """The share of the effect that a path misses, at least 0; None of a method without one along the embeddings, or with rules."""
    settings = scores.settings
    if settings is None or settings.method != "EAP-IG-inputs" or settings.rules:
        return None
    return abs(scores.completeness_gap)


def _alone(exact: EdgeScores, patched: Bool[Tensor, "n_writers n_readers"]) -> float | None:
    """What the input's edges are worth, each patched alone, as a share of the effect; None where not all of them were patched."""
    if (exact.graph.possible & ~patched)[0].any():
        return None
    return exact.matrix[0].sum().item() / max(abs(exact.effect), 1e-12)


def with_points(asked: PathSettings, ig_steps: int | None, gap: float | None) -> PathSettings:
    """The settings of one method, with the points of its path where it has one and does not name them."""
    own: PathSettings = {"method": "EAP-IG-inputs", **asked}
    if "ig_steps" in own or "gap" in own:
        return own
    along_embeddings = own.get("method") not in ("EAP-IG-activations", SAMPLED)
    steps = DEFAULT_STEPS if ig_steps is None else ig_steps
    taken = path_settings(own.get("method", "EAP-IG-inputs"), ig_steps=steps)
    return {**taken, **own} if gap is None or "ig_steps" not in taken or not along_embeddings else {"gap": gap, **own}


def check_asked(methods: Mapping[str, PathSettings], rank_by: str, numbers: Mapping[str, int]) -> None:
    """Raise ValueError on a `rank_by` that is none of `methods`, and on numbers (`n_top`, `n_random`, …) that cannot be."""
    if rank_by not in methods:
        raise ValueError(f"validity: rank_by is {rank_by!r}; choose one of the methods {', '.join(methods)}")
    for name, value in numbers.items():
        if not isinstance(value, Integral) or value < 0:
            raise ValueError(f"validity: {name} is {value}; it must be a whole number, 0 or more")
    if numbers["n_top"] + numbers["n_random"] < 3:
        raise ValueError("validity: a correlation needs three edges; raise n_top or n_random")


def chosen(scores: EdgeScores, n_top: int, n_random: int, seed: int) -> tuple[Int[Tensor, "m 2"], Bool[Tensor, " m"]]:
    """Indices of the `n_top` edges of largest |score| and of `n_random` others, in the matrix's order; and True where an edge is top."""
    possible = scores.graph.possible
    top = torch.zeros_like(possible)
    if n_top:
        # Impossible edges at 0: they are never above it, so they are never chosen.
        top = strongest(scores.matrix.abs().masked_fill(~possible, 0).flatten(), n_top).view_as(possible)
    # Drawn from the rest, so that no edge counts twice.
    others = (possible & ~top).nonzero()
    order = torch.randperm(len(others), generator=seeded(seed))[:n_random]
    mask = top.clone()
    mask[tuple(others[order].T)] = True
    return mask.nonzero(), top[mask]


def _parts(scores: EdgeScores, edges: Int[Tensor, "m 2"]) -> Float[Tensor, "n_examples m"]:
    assert scores.per_example is not None
    return scores.per_example[:, edges[:, 0], edges[:, 1]]
