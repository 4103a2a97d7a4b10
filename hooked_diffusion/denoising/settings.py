"""How a canvas is denoised: orthogonal settings, and the two published samplers as presets.

| setting | "dream" (`diffusion_generate`) | "llada" (`generate.py`) | without a preset |
|---|---|---|---|
| `select` | "entropy" | "confidence" | "confidence"; "left_to_right" on a causal model |
| `schedule` | "time_grid" | "even" | "even" |
| `tempered_scores` | True | False | False |
| `masked_by_token` | True | True | False |

Everything else is equal in all three. A setting that is passed beats the preset's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

Select = Literal["confidence", "entropy", "margin", "random", "left_to_right"]
Schedule = Literal["even", "time_grid", "rounded"]


@dataclass(frozen=True)
class DenoisingSettings:
    """Settings of one denoising run; frozen, validated when made.

    - `steps`: denoising iterations; None for as many as the fullest row has masks (one commit per step). More steps than masks is fine:
      steps that commit nothing cost nothing.
    - `select`: which masked positions a step commits: those of highest probability ("confidence"), lowest entropy, widest margin p₁ − p₂,
      at random, or the leftmost.
    - `schedule`: how many, see `schedules`: "even" (LLaDA), "time_grid" (Dream, with its `eps`), "rounded" (dllm).
    - `block_length`: masks per block; blocks are finished from left to right, each in its equal share of the steps. None: one block.
    - `temperature`: of token sampling; 0 takes the most probable token.
    - `tempered_scores`: positions are ranked by the tempered distribution rather than the model's own.
    - `masked_by_token`: a position counts as masked while it holds the mask id, so one that commits the mask id stays open; otherwise the
      mask positions are carried along, and whatever is committed is final.
    - `seed`: of random order and token sampling; every step draws from (seed, step).

    Raises ValueError, naming the setting, on a value that cannot be.
    """

    steps: int | None = None
    select: Select = "confidence"
    schedule: Schedule = "even"
    eps: float = 1e-3
    block_length: int | None = None
    temperature: float = 0.0
    tempered_scores: bool = False
    masked_by_token: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("select", get_args(Select)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"denoising: unknown {name} {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        for name in ("steps", "block_length"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"denoising: {name} is a whole number of at least 1, got {value!r}")
        if not 0 <= self.eps < 1:
            raise ValueError(f"denoising: eps, the time at which the grid ends, lies in [0, 1), got {self.eps}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"denoising: temperature is finite and at least 0, got {self.temperature}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a JSON side file."""
        return asdict(self)


PRESETS: dict[str, DenoisingSettings] = {
    "dream": DenoisingSettings(select="entropy", schedule="time_grid", tempered_scores=True, masked_by_token=True),
    "llada": DenoisingSettings(masked_by_token=True),
}


def make_settings(preset: str | None = None, *, causal: bool = False, **passed: Any) -> DenoisingSettings:
    """The preset's settings with those `passed` that are not None in their place; `causal` makes "left_to_right" the default order.

    Raises ValueError on an unknown preset or value, TypeError on an unknown setting.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"denoising: unknown preset {preset!r}; choose one of {', '.join(PRESETS)}, or pass settings alone")
    unknown = set(passed) - {f.name for f in fields(DenoisingSettings)}
    if unknown:
        known = ", ".join(f.name for f in fields(DenoisingSettings))
        raise TypeError(f"denoising has no setting {', '.join(sorted(unknown))}; it has {known}")
    default = DenoisingSettings(select="left_to_right") if causal else DenoisingSettings()
    base = default if preset is None else PRESETS[preset]
    return replace(base, **{name: value for name, value in passed.items() if value is not None})
