"""The options that say how edges are scored, checked together before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar, get_args

import typer

from mechshift_tl.cli.options import MOST_DRAWS, MOST_POINTS, words_of

if TYPE_CHECKING:
    from mechshift_tl.attribution.settings import AttributionSettings
    from mechshift_tl.interventions.replaced import Intervention

T = TypeVar("T")
MethodName = Annotated[
    str,
    typer.Option(
        "--method", help="eap-ig, eap, EAP-IG-activations, clean-corrupted, expected-gradients, atp*, relp, gim, learned or exact."
    ),
]
BackwardRules = Annotated[
    str | None,
    typer.Option(
        "--backward", help="Rules of the backward pass: relp, gim, or of norms, activations, products, patterns, softmax, qkv by commas."
    ),
]
GapGiven = Annotated[
    float | None,
    typer.Option("--gap", help="Instead of --ig-steps: add points until the path misses this share of the effect, such as 0.02."),
]
MetricName = Annotated[str, typer.Option("--metric", help="logit_diff, prob_diff, log_prob or kl.")]
InterventionName = Annotated[
    str, typer.Option("--intervention", help="What a writer is held against: counterfactual, zero, mean or mean_positional.")
]
StepsGiven = Annotated[int | None, typer.Option("--ig-steps", max=MOST_POINTS, help="Points on the integration path; default 5.")]
RuleGiven = Annotated[str | None, typer.Option("--rule", help="Where they lie: midpoint (default), gauss-legendre, right or left.")]
MeansN = Annotated[
    int | None,
    typer.Option(
        "--means-n", max=MOST_DRAWS, help="Further prompts of the task that means are taken over, none of them scored; default 100."
    ),
]
DEFAULT_MEANS_N = 100


def scoring(
    method: str,
    metric: str,
    intervention: str = "counterfactual",
    kv: str = "grouped",
    *,
    ig_steps: int | None,
    rule: str | None,
    gap: float | None = None,
    backward: str | None = None,
    keep_per_example: bool = False,
) -> AttributionSettings:
    """Settings for `attribute`. Raises ValueError on those that are unknown, or that no model can be attributed by."""
    from mechshift_tl.attribution.metrics import resolve
    from mechshift_tl.attribution.path import Method
    from mechshift_tl.attribution.settings import AttributionSettings
    from mechshift_tl.graph import KV

    check_choice("--method", method, get_args(Method))
    check_intervention_name(intervention)
    check_choice("--kv", kv, get_args(KV))
    named = {"method": method, "intervention": intervention, "kv": kv, "ig_steps": ig_steps, "rule": rule, "metric": metric, "gap": gap}
    named["backward"] = backward_of(backward)
    settings = AttributionSettings.from_dict({**named, "keep_per_example": keep_per_example})
    settings.check_metrics([resolve(metric)])
    return settings


def backward_of(text: str | None) -> str | tuple[str, ...]:
    """The name of a set of backward rules, or rules one by one."""
    words = words_of(text or "")
    return words[0] if len(words) == 1 else tuple(words)


def check_intervention_name(name: str) -> Intervention:
    """The intervention of that name. Raises ValueError when there is none."""
    from mechshift_tl.interventions.replaced import Intervention

    return check_choice("--intervention", name, get_args(Intervention))


def means_count(intervention: str, n: int | None) -> int:
    """How many further prompts means are taken over; 0 where the intervention uses none. Raises ValueError where `n` does not fit it."""
    if not intervention.startswith("mean"):
        if n is not None:
            raise ValueError(f"--means-n {n}: intervention {intervention!r} uses no means; leave it out, or choose mean or mean_positional")
        return 0
    check_least("--means-n", n, 1)
    return DEFAULT_MEANS_N if n is None else n


def check_choice(option: str, value: str, choices: Sequence[T]) -> T:
    """The one of `choices` that `value` is. Raises ValueError when it is none of them."""
    if (found := next((one for one in choices if one == value), None)) is None:
        raise ValueError(f"{option} is {value!r}; choose one of {', '.join(map(str, choices))}")
    return found


def check_least(option: str, value: int | None, least: int) -> None:
    """Raises ValueError when a number was given that is below `least`."""
    if value is not None and value < least:
        raise ValueError(f"{option} must be at least {least}, got {value}")
