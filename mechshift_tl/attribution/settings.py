"""`AttributionSettings`: everything that is asked of one attribution, checked together before any work.

A method takes gradients at points α of a path: α = 0 is the corrupt end, 1 the clean end (`path`). Only the EAP-IG methods integrate, so
only they have a `rule`; they and expected gradients have `ig_steps`. A preset ("relp", "gim", …) stands for a method and its `backward`
rules, and is resolved at once: settings that say the same are equal.

Two ends have no gradient: an embedding of zero, and the clean end of a metric that compares a run
with the clean run. Settings that would take a gradient there are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypedDict, get_args

from typing_extensions import Self

from mechshift_tl.attribution.metrics import Metric
from mechshift_tl.attribution.path import DEFAULT_STEPS, INTEGRATED, LEARNED, SAMPLED, Method, Points, Rule, path_points
from mechshift_tl.attribution.rules import RULE_SETS, BackwardRule, check_rules
from mechshift_tl.bridge.batching import check_batch_tokens, is_whole
from mechshift_tl.graph import KV
from mechshift_tl.interventions.replaced import Intervention

#: What is scored: every edge; every node (input, heads, MLPs); every MLP neuron.
Level = Literal["edges", "nodes", "neurons"]
#: Fields that decide how much is kept or run at a time, but not what a score is.
NOT_DEFINING = ("keep_per_example", "per_position", "batch_tokens")


#: What a preset's name stands for: the method, and the set of backward rules or none.
PRESETS: dict[str, tuple[Method, str | None]] = {
    "eap": ("EAP", None),
    "eap-ig": ("EAP-IG-inputs", None),
    "relp": ("EAP", "relp"),
    "gim": ("EAP", "gim"),
}


class PathSettings(TypedDict, total=False):
    """The settings in which one method differs from another."""

    method: Method
    ig_steps: int | None
    rule: Rule | None
    gap: float | None
    backward: str | tuple[str, ...]
    seed: int | None


def path_settings(method: Method, *, ig_steps: int | None = None, rule: Rule | None = None, gap: float | None = None) -> PathSettings:
    """The settings of one method, without those that it does not take; a gap takes the place of a number of points."""
    found: PathSettings = {"method": method}
    resolved, _ = PRESETS.get(method, (method, None))
    if gap is not None:
        found["gap"] = gap
    elif ig_steps is not None and resolved in (*INTEGRATED, SAMPLED):
        found["ig_steps"] = ig_steps
    if rule is not None and resolved in INTEGRATED:
        found["rule"] = rule
    return found


@dataclass(frozen=True)
class AttributionSettings:
    """Settings of one attribution. `attribute` explains each of them.

    - `method`: a preset's name becomes the method that it stands for.
    - `ig_steps`, `rule`: of the EAP-IG methods, 5 and "midpoint" unless given; None for the methods without a path. Expected gradients
      have `ig_steps`, 1 unless given, and a `seed`, 0 unless given. With a `gap`, `ig_steps` stays None.
    - `backward`: backward rules (`rules`), or the name of a set of them; kept as a tuple in one order.
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
    gap: float | None = None
    backward: str | tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_choice("method", self.method, get_args(Method))
        self._set_backward()
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

    def _set_backward(self) -> None:
        """Resolve a preset, and the name of a set of rules."""
        asked, (method, rule_set) = self.method, PRESETS.get(self.method, (self.method, None))
        if rule_set is not None:
            for name in ("ig_steps", "rule", "gap"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"attribute: method {asked!r} takes one gradient and no {name}; give method='eap-ig' and backward={rule_set!r}"
                    )
        backward = self.backward or (rule_set or ())
        rules = check_rules(RULE_SETS.get(backward, (backward,)) if isinstance(backward, str) else tuple(backward))
        if rule_set is not None and set(rules) != set(RULE_SETS[rule_set]):
            raise ValueError(f"attribute: method {asked!r} has backward rules of its own; give method='eap' to choose them one by one")
        if rules and method == "exact":
            raise ValueError("attribute: exact patching takes no gradients, so it has no backward rules; leave backward out")
        # The class is frozen to its users; it settles its own fields while it is made.
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "backward", rules)

    def _set_path(self) -> None:
        """Fill in the defaults of a path, and refuse a path for a method without one."""
        draws, walks = self.samples or self.learns, self.integrates or self.learns
        takes = {"ig_steps": walks or self.samples, "rule": walks, "seed": draws}
        for name, taken in takes.items():
            given = getattr(self, name)
            if given is not None and not taken:
                other = "expected-gradients or learned" if name == "seed" else "an EAP-IG method"
                raise ValueError(f"attribute: method {self.method!r} takes no {name} (got {given}); leave it out, or choose {other}")
        self._check_gap()
        if self.gap is None and takes["ig_steps"]:
            default = 1 if self.samples else DEFAULT_STEPS
            object.__setattr__(self, "ig_steps", default if self.ig_steps is None else self.ig_steps)
        if walks:
            object.__setattr__(self, "rule", "midpoint" if self.rule is None else self.rule)
        if draws:
            object.__setattr__(self, "seed", 0 if self.seed is None else self.seed)
            if not is_whole(self.seed) or not 0 <= self.seed < 2**63:
                raise ValueError(f"attribute: seed is {self.seed!r}; give a whole number from 0 to 2⁶³ − 1")
        if self.method == "atp*" and self.per_position:
            raise ValueError(
                "attribute: AtP* moves whole attention patterns, so its scores have no share per position; leave per_position out"
            )
        _ = self.points
        if self.learns:
            self._check_learned()

    def _check_learned(self) -> None:
        """Raise ValueError on what learned masks have not: one set of masks is of all prompts, by one metric."""
        refused = {
            "level='neurons'": self.level == "neurons", "keep_per_example": self.keep_per_example, "per_position": self.per_position,
            "several metrics": not isinstance(self.metric, str), "backward rules": bool(self.backward),
        }  # fmt: skip
        for name, asked in refused.items():
            if asked:
                raise ValueError(f"attribute: method 'learned' ranks edges or nodes once, for all prompts and one metric; leave out {name}")

    def _check_gap(self) -> None:
        """Raise ValueError on a gap that is no share, or that nothing can reach."""
        if self.gap is None:
            return
        if isinstance(self.gap, bool) or not isinstance(self.gap, int | float) or not 0 < self.gap < 1:
            raise ValueError(f"attribute: gap is {self.gap!r}; give a share of the effect between 0 and 1, such as 0.02")
        if self.ig_steps is not None:
            raise ValueError(f"attribute: gap={self.gap} chooses the number of points; leave out ig_steps (got {self.ig_steps}), or gap")
        if self.method not in ("EAP-IG-inputs", SAMPLED):
            raise ValueError(f"attribute: more points bring method {self.method!r} no nearer to completeness; give gap with 'eap-ig'")
        if self.backward:
            raise ValueError("attribute: under backward rules scores do not add up to the effect, however many points; leave gap out")

    @property
    def samples(self) -> bool:
        """Whether the points of the path are drawn, for each row anew."""
        return self.method == SAMPLED

    @property
    def learns(self) -> bool:
        """Whether masks are learned, from a start by EAP-IG."""
        return self.method == LEARNED

    @property
    def rules(self) -> tuple[BackwardRule, ...]:
        """The backward rules."""
        return check_rules(self.backward)

    @property
    def label(self) -> str:
        """A short name: the method, with its set of backward rules or the rules one by one."""
        named = next((name for name, rules in RULE_SETS.items() if rules and set(rules) == set(self.backward)), "+".join(self.backward))
        method = "EAP-IG" if self.method == "EAP-IG-inputs" else self.method
        return named if named and method == "EAP" else " + ".join(filter(None, (method, named)))

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
        values["backward"] = list(self.backward)
        # No rules are the usual case, and older files know none.
        if not self.backward:
            del values["backward"]
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
