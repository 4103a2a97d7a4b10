"""Attribution: how much of a behaviour every edge, node or neuron carries, from gradients along a path between a corrupt and a clean run.

    score(u → v) = Σ_batch,pos ⟨Δu, ḡ_v⟩ / n          positive = the edge supports the behaviour

1. Per batch, both ends run once (`interventions`): Δu is writer u's clean − corrupt output.
2. The path is walked (`path`, `gradients`): at each point a forward and, per metric, an activation-only backward.
3. ḡ_v is gathered per reader (`readers`) and met with Δu (`scoring`); nodes and neurons meet their own gradient (`nodes`).
4. Sums over read positions are pooled over batches and divided once (`totals`).

Cost per batch: two forwards, then `ig_steps` forwards with activation-only backwards; along the activations' path as much again for each
layer's heads and each MLP. Linear in rows and in `ig_steps`. Exact patching takes no gradients: `exact`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from hooked_diffusion.gradients import frozen
from mechshift_tl.attribution.accumulate import accumulate
from mechshift_tl.attribution.engine import Engine, Level
from mechshift_tl.attribution.metrics import resolve_all
from mechshift_tl.attribution.path import DEFAULT_STEPS, INTEGRATED, Method, Rule, path_points
from mechshift_tl.attribution.scores import EdgeScores, NodeScores
from mechshift_tl.attribution.totals import Keep, Totals
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.graph import KV, Graph
from mechshift_tl.interventions.replaced import Intervention, WriterMeans
from mechshift_tl.readouts import Readouts
from mechshift_tl.runs.provenance import provenance


def attribute(
    model: HookedModel,
    readouts: Readouts,
    *,
    method: Method = "EAP-IG-inputs",
    level: Level = "edges",
    ig_steps: int | None = None,
    rule: Rule | None = None,
    kv: KV = "grouped",
    metric: Any = "logit_diff",
    intervention: Intervention = "counterfactual",
    means: WriterMeans | None = None,
    edges: Bool[Tensor, "n_writers n_readers"] | None = None,
    per_position: bool = False,
    batch_tokens: int | None = None,
    keep_per_example: Keep = False,
    journal: Path | None = None,
) -> Any:
    """Scores of every edge `(n_writers, n_readers)`, node `(n_writers,)` or neuron `(n_layers · d_mlp,)` of `model` on `readouts`.

    Returns `EdgeScores`, or `NodeScores` for nodes and neurons; a dict of them by name when given several metrics.

    - `method`: "EAP-IG-inputs", "EAP", "EAP-IG-activations", "clean-corrupted" (the mean of both ends' gradients), or "exact" patching.
    - `ig_steps`, `rule`: points on an integrated path (default 5, midpoint; `path.quadrature`); "left" is the reference's grid.
    - `of`: "edges", "nodes" (input, heads, MLPs) or "neurons" (of the MLPs).
    - `kv`: K/V readers per KV head ("grouped") or per query head ("ungrouped", as the paper counts edges).
    - `metric`: a name or callable of `metrics`; several, in one pass, give a dict by name.
    - `intervention`: what a writer's output is held against: its "counterfactual" on the corrupt row, "zero", or its "mean" or
      "mean_positional" over other prompts (`means`, see `interventions`); the path then starts at that embedding.
    - `edges`: which edges exact patching measures, by default all that can exist; the others score 0.
    - `per_position`: keep also the share of each of the readouts' named spans (exact patching: the effect of patching that span alone).
    - `batch_tokens`: tokens per batch, at least one row; by default what keeps a batch's activations within 1 GiB.
    - `keep_per_example`: True keeps each example's own scores, for intervals over prompts: 4 · examples · scores bytes, at most 2 GiB;
      "moments" streams what standard errors need.
    - `journal`: a folder that keeps every finished batch, so that a killed call made again goes on from there and ends bit-equal
      (`journal`; a batch takes 4 · scores bytes, or that per row under `keep_per_example`). Delete it when the scores are saved.

    Processes launched together (`accelerate launch`, `torchrun`) share the examples and all return the whole result. A batch that memory
    cannot hold is run in halves, with a warning.

    `model` is a `HookedDiffusionTransformer` or any TransformerLens bridge with the usual hooks. Scores do not depend on batching.
    Raises ValueError on unknown or contradictory settings, on readouts that do not fit the model, on a metric without a gradient, on an
    architecture whose writers or readers are not known; FloatingPointError, naming layer and hook, when a run or a metric is not finite;
    MemoryError when one row alone does not fit; OSError when the journal cannot be written.
    """
    steps, rule = path_settings(method, ig_steps, rule)
    engine = Engine(
        model, Graph.of(model, kv), level, method, path_points(method, rule, steps), resolve_all(metric), intervention, means,
        len(readouts.spans) if per_position else None, bool(keep_per_example), edges, batch_tokens,
    )  # fmt: skip
    engine.check(readouts)
    integral = {"ig_steps": steps, "rule": rule} if method in INTEGRATED else {}
    settings = {"method": method, "level": level, **integral, "kv": kv, "intervention": intervention}
    made_from = provenance(model, readouts.info)
    work = {**settings, "keep_per_example": keep_per_example, **made_from, **engine.digests(readouts, weights=journal is not None)}
    with frozen(model):
        totals = accumulate(
            engine.parts, readouts, lambda rows: [Totals(rows, engine.shape, keep_per_example) for _ in engine.metrics],
            engine.tokens, label=f"attribute {level}", journal=None if journal is None else Path(journal), work=work,
        )  # fmt: skip
    kind = EdgeScores if level == "edges" else NodeScores
    results = {
        one.name: kind(
            graph=engine.graph, settings={**settings, "metric": one.name}, provenance=made_from, **total.fields(per_position=per_position)
        )
        for one, total in zip(engine.metrics, totals, strict=True)
    }
    return results if isinstance(metric, Sequence) and not isinstance(metric, str) else next(iter(results.values()))


def path_settings(method: str, ig_steps: int | None, rule: Rule | None) -> tuple[int, Rule]:
    """Points and rule of an integrated path, by default where they are None. Raises ValueError on them for a method without one."""
    for name, given in {"ig_steps": ig_steps, "rule": rule}.items():
        if given is not None and method not in INTEGRATED:
            raise ValueError(f"attribute: method {method!r} takes no {name} (got {given}); leave it out, or choose an EAP-IG method")
    return DEFAULT_STEPS if ig_steps is None else ig_steps, rule or "midpoint"
