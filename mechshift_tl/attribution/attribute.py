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
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, overload

from jaxtyping import Bool
from torch import Tensor
from typing_extensions import Unpack

from hooked_diffusion.gradients import frozen
from hooked_diffusion.threads import in_one_thread
from mechshift_tl.attribution.accumulate import accumulate
from mechshift_tl.attribution.completeness import finer, largest_gap, warn_of_few_points, warn_of_gap
from mechshift_tl.attribution.engine import Engine
from mechshift_tl.attribution.learned import learn_masks
from mechshift_tl.attribution.metrics import Metric, MetricLike, resolve_all
from mechshift_tl.attribution.path import Method, Rule
from mechshift_tl.attribution.scores import EdgeScores, NodeScores
from mechshift_tl.attribution.settings import AttributionSettings, Level
from mechshift_tl.attribution.totals import Totals
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.graph import KV
from mechshift_tl.interventions.replaced import Intervention, WriterMeans
from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts.rows import check_given
from mechshift_tl.runs.provenance import provenance


class Options(TypedDict, total=False):
    """The arguments of `attribute` that do not change the type of its result."""

    method: Method
    ig_steps: int | None
    rule: Rule | None
    gap: float | None
    backward: str | Sequence[str]
    seed: int | None
    kv: KV
    intervention: Intervention
    means: WriterMeans | None
    edges: Bool[Tensor, "n_writers n_readers"] | None
    per_position: bool
    batch_tokens: int | None
    keep_per_example: bool
    journal: Path | None


@overload
def attribute(
    model: HookedModel, readouts: Readouts, *, level: Literal["edges"] = ..., metric: MetricLike = ..., **options: Unpack[Options]
) -> EdgeScores: ...
@overload
def attribute(
    model: HookedModel, readouts: Readouts, *, level: Literal["nodes", "neurons"], metric: MetricLike = ..., **options: Unpack[Options]
) -> NodeScores: ...
@overload
def attribute(
    model: HookedModel, readouts: Readouts, *, level: Literal["edges"] = ..., metric: Sequence[MetricLike], **options: Unpack[Options]
) -> dict[str, EdgeScores]: ...
@overload
def attribute(
    model: HookedModel, readouts: Readouts, *, level: Literal["nodes", "neurons"], metric: Sequence[MetricLike], **options: Unpack[Options]
) -> dict[str, NodeScores]: ...
def attribute(
    model: HookedModel,
    readouts: Readouts,
    *,
    method: Method = "EAP-IG-inputs",
    level: Level = "edges",
    ig_steps: int | None = None,
    rule: Rule | None = None,
    gap: float | None = None,
    backward: str | Sequence[str] = (),
    seed: int | None = None,
    kv: KV = "grouped",
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    intervention: Intervention = "counterfactual",
    means: WriterMeans | None = None,
    edges: Bool[Tensor, "n_writers n_readers"] | None = None,
    per_position: bool = False,
    batch_tokens: int | None = None,
    keep_per_example: bool = False,
    journal: Path | None = None,
) -> EdgeScores | NodeScores | dict[str, EdgeScores] | dict[str, NodeScores]:
    """Scores of every edge `(n_writers, n_readers)`, node `(n_writers,)` or neuron `(n_layers · d_mlp,)` of `model` on `readouts`.

    Returns `EdgeScores`, or `NodeScores` for nodes and neurons; a dict of them by name when given several metrics.

    - `method`: "EAP-IG-inputs" ("eap-ig"), "EAP" ("eap"), "EAP-IG-activations", "clean-corrupted" (the mean of both ends' gradients),
      "expected-gradients", "atp*" (`atp_star`), "exact" patching; "learned" masks (`learned`, in shares of circuit sizes, without sign),
      which start from EAP-IG; or "relp" or "gim", which are EAP under backward rules.
    - `ig_steps`, `rule`: points on an integrated path (default 5, midpoint; `path.quadrature`); "left" is the reference's grid.
    - `gap`: instead of `ig_steps`, doubles the points until the path misses this share of the mean example's effect, such as 0.02.
    - `backward`: rules that the gradient follows on its way back (`rules`), by name, or "relp" or "gim"; goes with any gradient method.
    - `seed`: of the points that expected gradients draw, `ig_steps` of them (default 1) for each example; of the sizes that masks learn.
    - `level`: "edges", "nodes" (input, heads, MLPs) or "neurons" (of the MLPs).
    - `kv`: K/V readers per KV head ("grouped") or per query head ("ungrouped", as the paper counts edges).
    - `metric`: a name or callable of `metrics`; several, in one pass, give a dict by name.
    - `intervention`: what a writer's output is held against: its "counterfactual" on the corrupt row, "zero", or its "mean" or
      "mean_positional" over other prompts (`means`, see `interventions`); the path then starts at that embedding.
    - `edges`: which edges exact patching measures, by default all that can exist; the others score 0.
    - `per_position`: keep also the share of each of the readouts' named spans (exact patching: the effect of patching that span alone).
    - `batch_tokens`: tokens per batch, at least one row; by default what keeps a batch's activations within 1 GiB.
    - `keep_per_example`: keep each example's own scores, for intervals over prompts: 4 · examples · scores bytes, at most 2 GiB.
    - `journal`: a folder that keeps every finished batch, so that a killed call made again goes on from there and ends bit-equal
      (`journal`; a batch takes 4 · scores bytes, or that per row under `keep_per_example`). Delete it when the scores are saved.

    Processes launched together (`accelerate launch`, `torchrun`) share the examples and all return the whole result. A batch that memory
    cannot hold is run in halves, with a warning.

    `model` is a `HookedDiffusionTransformer` or any TransformerLens bridge with the usual hooks. Scores do not depend on batching.
    Raises ValueError on unknown or contradictory settings, on readouts that do not fit the model, on a metric without a gradient, on an
    architecture whose writers or readers are not known; FloatingPointError, naming layer and hook, when a run or a metric is not finite;
    MemoryError when one row alone does not fit; OSError when the journal cannot be written.
    """
    metrics = resolve_all(metric)
    # A string is a sequence too.
    several = isinstance(metric, Sequence) and not isinstance(metric, str)
    settings = AttributionSettings(
        method=method, level=level, ig_steps=ig_steps, rule=rule, gap=gap,
        backward=backward if isinstance(backward, str) else tuple(backward), seed=seed, kv=kv, intervention=intervention,
        metric=tuple(one.name for one in metrics) if several else metrics[0].name,
        keep_per_example=keep_per_example, per_position=per_position, batch_tokens=batch_tokens,
    )  # fmt: skip
    if settings.learns:
        return _learned(model, readouts, settings, metrics[0], means=means, edges=edges, journal=journal)
    warn_of_few_points(settings)
    totals = _totals(model, readouts, settings, metrics, means=means, edges=edges, journal=journal)
    if level == "edges":
        found = {name: EdgeScores(**fields) for name, fields in totals.items()}
        return found if several else found[metrics[0].name]
    found = {name: NodeScores(**fields) for name, fields in totals.items()}
    return found if several else found[metrics[0].name]


def attribute_edges(
    model: HookedModel,
    readouts: Readouts,
    settings: AttributionSettings,
    *,
    metric: MetricLike | None = None,
    means: WriterMeans | None = None,
    edges: Bool[Tensor, "n_writers n_readers"] | None = None,
    journal: Path | None = None,
) -> EdgeScores:
    """`attribute` for settings that are an object already: the scores of every edge by one metric.

    `metric` is the one that `settings` names; only a metric of your own has to be given. Raises ValueError on settings of nodes or neurons,
    on several metrics, and where `attribute` does.
    """
    chosen = resolve_all(settings.metrics if metric is None else metric)
    if settings.level != "edges" or settings.metrics != tuple(one.name for one in chosen) or len(chosen) > 1:
        raise ValueError(f"attribute_edges: level is {settings.level!r}, metric is {settings.metric!r}; give level 'edges' and one metric")
    if settings.learns:
        found = _learned(model, readouts, settings, chosen[0], means=means, edges=edges, journal=journal)
        assert isinstance(found, EdgeScores)
        return found
    (fields,) = _totals(model, readouts, settings, chosen, means=means, edges=edges, journal=journal).values()
    return EdgeScores(**fields)


def _learned(
    model: HookedModel,
    readouts: Readouts,
    settings: AttributionSettings,
    metric: Metric,
    *,
    means: WriterMeans | None,
    edges: Bool[Tensor, "n_writers n_readers"] | None,
    journal: Path | None,
) -> EdgeScores | NodeScores:
    """Masks that start from EAP-IG. The journal holds both parts."""
    if edges is not None:
        raise ValueError("attribute: method 'learned' ranks every edge; leave out edges")
    shared: Any = {"level": settings.level, "kv": settings.kv, "metric": metric, "intervention": settings.intervention, "means": means}
    place = None if journal is None else Path(journal)
    first = attribute(
        model, readouts, **shared, ig_steps=settings.ig_steps, rule=settings.rule, batch_tokens=settings.batch_tokens,
        journal=place and place / "start",
    )  # fmt: skip
    found = learn_masks(model, readouts, **shared, start=first, seed=settings.seed or 0, journal=place and place / "masks")
    return replace(found, settings=settings)


def _totals(
    model: HookedModel,
    readouts: Readouts,
    settings: AttributionSettings,
    metrics: list[Metric],
    *,
    means: WriterMeans | None,
    edges: Bool[Tensor, "n_writers n_readers"] | None,
    journal: Path | None,
) -> dict[str, dict[str, Any]]:  # the fields of `Scores`, by the metric's name
    """What the scores of each metric consist of; run with more and more points where the settings ask for a gap."""
    check_given("attribute", model, readouts)
    passes, gap = 0, float("nan")
    found: dict[str, dict[str, Any]] = {}
    for tried in finer(settings):
        within = journal if journal is None or settings.gap is None else Path(journal) / f"{tried.ig_steps}-points"
        engine = Engine(model, tried, metrics, _n_spans(tried, readouts), means, edges, completeness=settings.gap is not None)
        totals, made_from = _once(engine, readouts, journal=within)
        passes, gap = passes + (tried.ig_steps or 0), largest_gap(totals)
        told = {} if settings.gap is None else {"points": tried.ig_steps, "passes": passes, "example_gap": gap}
        found = {
            one.name: {"graph": engine.graph, "settings": replace(settings, metric=one.name), "provenance": made_from, **told}
            | total.fields(per_position=settings.per_position)
            for one, total in zip(metrics, totals, strict=True)
        }
        if settings.gap is None or gap <= settings.gap:
            return found
    assert settings.gap is not None
    warn_of_gap(gap, settings.gap)
    return found


def _n_spans(settings: AttributionSettings, readouts: Readouts) -> int | None:
    return len(readouts.spans) if settings.per_position else None


def _once(engine: Engine, readouts: Readouts, *, journal: Path | None) -> tuple[list[Totals], dict[str, object]]:
    """Check everything, then run every batch; also what the scores are made from."""
    model, settings = engine.model, engine.settings
    # Hooks and frozen weights belong to the model: a second thread would run under those of the first.
    with in_one_thread(model):
        engine.check(readouts)
        made_from = provenance(model, readouts.info)
        work = {**settings.to_dict(), **made_from, **engine.digests(readouts, weights=journal is not None)}
        # Around all batches: the weights take no gradient.
        with frozen(model):
            totals = accumulate(
                engine.parts, readouts, lambda rows: [Totals(rows, engine.shape, settings.keep_per_example) for _ in engine.metrics],
                engine.tokens, label=f"attribute {settings.level}", per_row=settings.keep_per_example,
                journal=None if journal is None else Path(journal), work=work,
            )  # fmt: skip
    return totals, made_from
