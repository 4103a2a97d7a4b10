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

- "dream" is `diffusion_generate` of Dream. Dream's `origin` is `preset="dream", select="random", schedule="bernoulli"`.
- "llada" is LLaDA's `generate.py`.
- "diffullama" is the sampler of DiffuLLaMA and DiffuGPT.
- "dllm" stands for the mdlm and bd3lm samplers of dllm.
- "threshold" is the adaptive sampler of Fast-dLLM v2, SDAR and LLaDA2.

All other settings are equal in all presets. A setting that is passed replaces the preset's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from typing import Literal, TypedDict, get_args

from typing_extensions import Unpack

from hooked_diffusion.seeds import check_seed

Select = Literal["confidence", "entropy", "margin", "random", "left_to_right", "threshold"]
Schedule = Literal["even", "time_grid", "rounded", "bernoulli"]
Preset = Literal["dream", "llada", "diffullama", "dllm", "threshold"]
DEFAULT_THRESHOLD = 0.9
#: No canvas needs more steps; a schedule is a list of as many numbers.
MAX_STEPS = 1_000_000


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"denoising: unknown {name} {value!r}; choose one of {', '.join(choices)}")


@dataclass(frozen=True)
class DenoisingSettings:
    """Settings of one denoising run; frozen, validated when made.

    Which positions, and how many:

    - `steps`: denoising iterations. The blocks share them equally. None: every step commits one position in each row. Steps that commit
      nothing cost nothing. More steps than masks make a finer grid for "time_grid" and "bernoulli"; the other schedules warn.
    - `select`: which masked positions a step commits: those of highest probability ("confidence"), of lowest entropy, of widest margin
      p₁ − p₂, random ones, or the leftmost. "threshold" is short for "confidence" with a `threshold` of 0.9.
    - `schedule`: how many positions a step commits, see `schedules`: "even" (LLaDA), "time_grid" (Dream, with its `eps`), "rounded" (dllm),
      "bernoulli" (a coin for each position: Dream's `origin`, DiffuLLaMA).
    - `eps`: the time in [0, 1) at which the grid of "time_grid" and "bernoulli" ends.
    - `threshold`: probability in [0, 1]. A position whose token has a higher one commits too, beyond the schedule's number. None: never.
    - `alg_temp`: positions are drawn from softmax(score / alg_temp) without replacement; 0 takes the best.
    - `block_length`: masks per block. Blocks are finished from left to right; the last one may be shorter. None: one block, or, on a
      block-causal model, the blocks of its attention.
    - `remask`: probability in [0, 1) with which a step masks each position again that was committed before it. The step commits as many
      more, so the number of masks still follows the schedule (ReMDM, arXiv 2503.00307, with constant σ). The last step of a block masks
      none again.

    Which token:

    - `temperature`, `top_p`, `top_k`: tokens are drawn from softmax(logits / temperature), cut to the smallest set of mass `top_p`, then to
      the `top_k` likeliest. Temperature 0 takes the most probable token.
    - `cfg_scale`: classifier-free guidance, u + (cfg_scale + 1)·(l − u), where u are the logits with the prompt masked too. It needs two
      forwards a step.
    - `tempered_scores`: True ranks positions by the distribution that tokens are drawn from, False by the model's own.
    - `masked_by_token`: True counts a position as masked while it holds the mask id, so a position that commits the mask id stays masked.
      False carries the mask positions along; what is committed is final.
    - `seed`: of all draws; step k draws from (seed, k).

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
        _check_choice("select", self.select, get_args(Select))
        _check_choice("schedule", self.schedule, get_args(Schedule))
        if self.select == "threshold":
            # The only way to set a field of a frozen dataclass.
            object.__setattr__(self, "select", "confidence")
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLD if self.threshold is None else self.threshold)
        self._check_numbers()
        check_seed(self.seed, "denoising: seed")

    def _check_numbers(self) -> None:
        for name, count in (("steps", self.steps), ("block_length", self.block_length), ("top_k", self.top_k)):
            if count is not None and (not isinstance(count, int) or count < 1):
                raise ValueError(f"denoising: {name} is a whole number of at least 1, got {count!r}")
        if self.steps is not None and self.steps > MAX_STEPS:
            raise ValueError(f"denoising: steps is at most {MAX_STEPS}, got {self.steps}")
        for name, value in (("temperature", self.temperature), ("alg_temp", self.alg_temp), ("cfg_scale", self.cfg_scale)):
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"denoising: {name} is finite and at least 0, got {value}")
        if not 0 <= self.eps < 1:
            raise ValueError(f"denoising: eps, the time at which the grid ends, lies in [0, 1), got {self.eps}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"denoising: top_p, the mass that tokens are drawn from, lies in (0, 1], got {self.top_p}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"denoising: threshold is a probability in [0, 1], got {self.threshold}")
        if not 0 <= self.remask < 1:
            raise ValueError(f"denoising: remask is a probability in [0, 1), got {self.remask}")

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a JSON side file."""
        return asdict(self)


class SettingArguments(TypedDict, total=False):
    """The settings that are passed by name; `DenoisingSettings` explains them. None leaves the preset's value; `seed` cannot be None."""

    schedule: Schedule | None
    eps: float | None
    block_length: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    alg_temp: float | None
    threshold: float | None
    cfg_scale: float | None
    remask: float | None
    tempered_scores: bool | None
    masked_by_token: bool | None
    seed: int


PRESETS: dict[Preset, DenoisingSettings] = {
    "dream": DenoisingSettings(select="entropy", schedule="time_grid", tempered_scores=True, masked_by_token=True),
    "llada": DenoisingSettings(masked_by_token=True),
    "diffullama": DenoisingSettings(select="random", schedule="bernoulli", eps=0.0, temperature=0.95, top_p=0.9),
    "dllm": DenoisingSettings(schedule="rounded"),
    "threshold": DenoisingSettings(threshold=DEFAULT_THRESHOLD, tempered_scores=True),
}


def make_settings(
    preset: Preset | None = None,
    steps: int | None = None,
    select: Select | None = None,
    *,
    causal: bool = False,
    **passed: Unpack[SettingArguments],
) -> DenoisingSettings:
    """The preset's settings, replaced by those that are passed and not None; `causal` makes "left_to_right" the default order.

    Raises ValueError on an unknown preset or an impossible value, TypeError on an unknown setting.
    """
    if preset is not None:
        _check_choice("preset", preset, tuple(PRESETS))
    known = [field.name for field in fields(DenoisingSettings)]
    unknown = sorted(set(passed) - set(known))
    if unknown:
        raise TypeError(f"denoising has no setting {', '.join(unknown)}; it has preset, {', '.join(known)}")
    check_seed(passed.get("seed", 0), "denoising: seed")  # None would read as "not passed", and hide that a run is not random
    default = DenoisingSettings(select="left_to_right") if causal else DenoisingSettings()
    base = default if preset is None else PRESETS[preset]
    # None means "not passed", so it never replaces the preset's value.
    return replace(base, **{name: value for name, value in {"steps": steps, "select": select, **passed}.items() if value is not None})
