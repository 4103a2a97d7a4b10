"""How a canvas is denoised: orthogonal settings, and the published samplers as presets of them.

| setting | "dream" | "llada" | "diffullama" | "dllm" | "threshold" | without a preset |
|---|---|---|---|---|---|---|
| `select` | entropy | confidence | random | confidence | confidence | confidence; left_to_right on a causal model |
| `schedule` | time_grid | even | bernoulli | rounded | even | even |
| `eps` | 1e-3 | | 0 | | | 1e-3 |
| `temperature`, `top_p` | 0, 1 | 0, 1 | 0.95, 0.9 | 0, 1 | 0, 1 | 0, 1 |
| `threshold` | | | | | 0.9 | |
| `tempered_scores` | True | False | False | False | True | False |
| `masked_by_token` | True | True | False | False | False | False |

"dream" is `diffusion_generate` of Dream, "llada" LLaDA's `generate.py`, "diffullama" DiffuLLaMA's and DiffuGPT's sampler, "dllm" the mdlm
and bd3lm samplers of dllm, "threshold" the adaptive one of Fast-dLLM v2, SDAR and LLaDA2. Everything else is equal in all; whatever is
passed beats the preset. Dream's `origin` is `preset="dream", select="random", schedule="bernoulli"`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from typing import Any, Literal, get_args

Select = Literal["confidence", "entropy", "margin", "random", "left_to_right", "threshold"]
Schedule = Literal["even", "time_grid", "rounded", "bernoulli"]
DEFAULT_THRESHOLD = 0.9


@dataclass(frozen=True)
class DenoisingSettings:
    """Settings of one denoising run; frozen, validated when made.

    Which positions, and how many:

    - `steps`: denoising iterations, shared equally by the blocks; None for one commit per step in every row. Steps that commit
      nothing cost nothing; more steps than masks make a finer grid for "time_grid" and "bernoulli", and a warning for the others.
    - `select`: which masked positions a step commits: those of highest probability ("confidence"), lowest entropy, widest margin p₁ − p₂,
      at random, or the leftmost. "threshold" is short for "confidence" with a `threshold` of 0.9.
    - `schedule`: how many, see `schedules`: "even" (LLaDA), "time_grid" (Dream, with its `eps`), "rounded" (dllm), "bernoulli" (each
      position by its own coin: Dream's `origin`, DiffuLLaMA).
    - `threshold`: positions whose token has a higher probability commit too, beyond the schedule's number. None: never.
    - `alg_temp`: positions are drawn from softmax(score / alg_temp) without replacement; 0 takes the best.
    - `block_length`: masks per block; blocks are finished from left to right, the last one may be shorter. None: one block, or the
      attention's own blocks on a block-causal model.
    - `remask`: probability with which a step reopens each position committed before it; the step commits as many more, so the number of
      masks still follows the schedule (ReMDM, arXiv 2503.00307, with constant σ). The last step of a block reopens none.

    Which token:

    - `temperature`, `top_p`, `top_k`: tokens are drawn from softmax(logits / temperature), cut to the smallest set of mass `top_p`, then to
      the `top_k` likeliest; temperature 0 takes the most probable token.
    - `cfg_scale`: classifier-free guidance, u + (cfg_scale + 1)·(l − u) with u the logits where the prompt is masked too; two forwards.
    - `tempered_scores`: positions are ranked by the distribution that tokens are drawn from, rather than the model's own.
    - `masked_by_token`: a position counts as masked while it holds the mask id, so one that commits the mask id stays open; otherwise the
      mask positions are carried along, and whatever is committed is final.
    - `seed`: of all draws; every step draws from (seed, step).

    Raises ValueError, naming the setting, on a value that cannot be.
    """

    steps: int | None = None
    select: Select = "confidence"
    schedule: Schedule = "even"
    eps: float = 1e-3
    block_length: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    alg_temp: float = 0.0
    threshold: float | None = None
    cfg_scale: float = 0.0
    remask: float = 0.0
    tempered_scores: bool = False
    masked_by_token: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("select", get_args(Select)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"denoising: unknown {name} {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if self.select == "threshold":
            object.__setattr__(self, "select", "confidence")
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLD if self.threshold is None else self.threshold)
        for name in ("steps", "block_length", "top_k"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"denoising: {name} is a whole number of at least 1, got {value!r}")
        for name in ("temperature", "alg_temp", "cfg_scale"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"denoising: {name} is finite and at least 0, got {getattr(self, name)}")
        if not 0 <= self.eps < 1:
            raise ValueError(f"denoising: eps, the time at which the grid ends, lies in [0, 1), got {self.eps}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"denoising: top_p, the mass that tokens are drawn from, lies in (0, 1], got {self.top_p}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"denoising: threshold is a probability in [0, 1], got {self.threshold}")
        if not 0 <= self.remask < 1:
            raise ValueError(f"denoising: remask is a probability in [0, 1), got {self.remask}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a JSON side file."""
        return asdict(self)


PRESETS: dict[str, DenoisingSettings] = {
    "dream": DenoisingSettings(select="entropy", schedule="time_grid", tempered_scores=True, masked_by_token=True),
    "llada": DenoisingSettings(masked_by_token=True),
    "diffullama": DenoisingSettings(select="random", schedule="bernoulli", eps=0.0, temperature=0.95, top_p=0.9),
    "dllm": DenoisingSettings(schedule="rounded"),
    "threshold": DenoisingSettings(threshold=DEFAULT_THRESHOLD, tempered_scores=True),
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
