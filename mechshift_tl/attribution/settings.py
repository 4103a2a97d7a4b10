"""`AttributionSettings`: everything that is asked of one attribution, checked together before any work.

A method takes gradients at points α of a path: α = 0 is the corrupt end, 1 the clean end (`path`). Only the EAP-IG methods integrate, so
only they have `ig_steps` and a `rule`. Two ends have no gradient: an embedding of zero, and the clean end of a metric that compares a run
with the clean run. Settings that would take a gradient there are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypedDict, get_args

from typing_extensions import Self

from mechshift_tl.attribution.metrics import Metric
from mechshift_tl.attribution.path import DEFAULT_STEPS, INTEGRATED, Method, Points, Rule, path_points
from mechshift_tl.bridge.batching import check_batch_tokens
from mechshift_tl.graph import KV
from mechshift_tl.interventions.replaced import Intervention

#: What is scored: every edge; every node (input, heads, MLPs); every MLP neuron.
Level = Literal["edges", "nodes", "neurons"]
#: Fields that decide how much is kept or run at a time, but not what a score is.
NOT_DEFINING = ("keep_per_example", "per_position", "batch_tokens")


class PathSettings(TypedDict, total=False):
    """The settings in which one method differs from another."""

    method: Method
    ig_steps: int | None
    rule: Rule | None


@dataclass(frozen=True)
class AttributionSettings:
    """Settings of one attribution. `attribute` explains each of them.

    - `ig_steps`, `rule`: of the EAP-IG methods, 5 and "midpoint" unless given; None for the methods without a path.
    - `metric`: a metric's name, or several names.
    - `batch_tokens`: None chooses a number that suits the model.

    Raises ValueError on a value that is unknown or out of range, and on values that contradict each other.
    """

    method: Method = "EAP-IG-inputs"
    level: Level = "edges"
    ig_steps: int | None = None
    rule: Rule | None = None
    kv: KV = "grouped"
    intervention: Intervention = "counterfactual"
    metric: str | tuple[str, ...] = "logit_diff"
    keep_per_example: bool = False
    per_position: bool = False
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        _check_choice("method", self.method, get_args(Method))
        _check_choice("level", self.level, get_args(Level))
        _check_choice("kv", self.kv, get_args(KV))
        _check_choice("intervention", self.intervention, get_args(Intervention))
        for name in ("keep_per_example", "per_position"):
            _check_choice(name, getattr(self, name), (False, True))
        if not self.metric or not all(isinstance(name, str) for name in self.metrics):
            raise ValueError(f"attribute: metric names nothing: {self.metric!r}; give a name, or several")
        self._set_path()
        if self.batch_tokens is not None:
            check_batch_tokens(self.batch_tokens)
        if self.level == "neurons" and self.intervention.startswith("mean"):
            raise ValueError(f"attribute: neurons have no means; choose 'counterfactual' or 'zero', not {self.intervention!r}")
        if self.intervention == "zero":
            self.check_start()

    def _set_path(self) -> None:
        """Fill in the defaults of an integrated path, and refuse a path for a method without one."""
        for name in ("ig_steps", "rule"):
            given = getattr(self, name)
            if given is not None and not self.integrates:
                raise ValueError(
                    f"attribute: method {self.method!r} takes no {name} (got {given}); leave it out, or choose an EAP-IG method"
                )
        if self.integrates:
            # The class is frozen to its users; its own defaults are set while it is made.
            object.__setattr__(self, "ig_steps", DEFAULT_STEPS if self.ig_steps is None else self.ig_steps)
            object.__setattr__(self, "rule", "midpoint" if self.rule is None else self.rule)
        _ = self.points

    @property
    def integrates(self) -> bool:
        """Whether the method averages gradients over a path of several points."""
        return self.method in INTEGRATED

    @property
    def points(self) -> Points:
        """Points α of the path and their weights."""
        return path_points(self.method, self.rule or "midpoint", DEFAULT_STEPS if self.ig_steps is None else self.ig_steps)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return (self.metric,) if isinstance(self.metric, str) else self.metric

    def check_start(self) -> None:
        """Raise ValueError when a gradient would be taken at the corrupt end. Call this where that end is an embedding of zero."""
        if self.method != "exact" and any(alpha == 0 for alpha, _ in self.points):
            raise ValueError(
                "attribute: at an embedding of zero norms have no direction and gradients no meaning; with intervention 'zero', or tokens "
                "that the corrupt mask alone hides, choose EAP, or an EAP-IG rule that leaves out the corrupt end: 'midpoint', "
                "'gauss-legendre' or 'right'"
            )

    def check_metrics(self, metrics: Sequence[Metric]) -> None:
        """Raise ValueError when one of `metrics` is differentiated at the clean run alone, where its gradient is zero."""
        if self.method == "exact" or any(alpha != 1 for alpha, _ in self.points):
            return
        for metric in metrics:
            if metric.needs_clean:
                raise ValueError(f"attribute: {metric.name!r} has no gradient at the clean run, the only point that EAP takes; use EAP-IG")

    def defining(self) -> dict[str, object]:
        """The settings that decide what a score is, as JSON values; without those that have no value."""
        return {name: value for name, value in self.to_dict().items() if name not in NOT_DEFINING}

    def to_dict(self) -> dict[str, object]:
        """Every setting that has a value, as JSON values."""
        # None is left out, so that a file says only what applies to its method.
        values: dict[str, object] = {name: value for name, value in asdict(self).items() if value is not None}
        return values if isinstance(self.metric, str) else values | {"metric": list(self.metric)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Settings that `to_dict` or `defining` made. Raises ValueError on an unknown name, and where the class itself does."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"attribute has no setting {unknown[0]!r}; its settings are {', '.join(sorted(known))}")
        metric = values.get("metric", "logit_diff")
        return cls(**{**values, "metric": metric if isinstance(metric, str) else tuple(metric)})


def _check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    # By type first: 1 == True, and a tensor's == is no bool.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        *others, last = (repr(choice) for choice in choices)
        raise ValueError(f"attribute: {name} is {value!r}; choose {', '.join(others)} or {last}")
