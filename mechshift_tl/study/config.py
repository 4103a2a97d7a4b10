"""The settings of a study, checked when they are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from mechshift_tl.attribution.path import Rule
from mechshift_tl.attribution.settings import AttributionSettings
from mechshift_tl.graph import KV


@dataclass(frozen=True)
class StudyConfig:
    """Settings of one study.

    - `n`: prompts per task, read correctly by every model of the pair; `seed`: of prompts, floors and intervals.
    - `ig_steps`, `rule`, `kv`: of the attribution.
    - `edges`: circuit size (None: min(1000, 5 % of the possible edges)); `components`: K of the component overlap (None: see `compare`).
    - `cut`: layers that count as early (None: the first third); `neuron_layer`: whose neurons are shown (None: the last early layer).
    - `n_boot`, `n_random`: draws behind intervals and floors.
    - `held_out`: further prompts, read correctly as well, on which circuits are run; 0 runs none.
    - `validity_n`, `validity_edges`: of these, prompts on which edges are patched exactly (0: none), and how many top and random edges.
    - `measurements`: "all", those of a "quick" study, "none", or names of `study.measurements`.
    """

    n: int = 200
    seed: int = 0
    ig_steps: int = 5
    rule: Rule = "midpoint"
    kv: KV = "grouped"
    edges: int | None = None
    components: int | None = None
    cut: int | None = None
    neuron_layer: int | None = None
    n_boot: int = 200
    n_random: int = 200
    held_out: int = 40
    validity_n: int = 8
    validity_edges: int = 50
    measurements: Literal["all", "quick", "none"] | tuple[str, ...] = "all"

    def __post_init__(self) -> None:
        _ = self.attribution
        least_of = {"n": 2, "edges": 1, "components": 1, "cut": 1, "neuron_layer": 0, "n_boot": 0, "n_random": 1}
        for name, least in (least_of | {"held_out": 0, "validity_n": 0, "validity_edges": 2}).items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"StudyConfig.{name} is {value}; it must be at least {least}")
        if isinstance(self.measurements, str) and self.measurements not in ("all", "quick", "none"):
            raise ValueError(f"StudyConfig.measurements is {self.measurements!r}; give 'all', 'quick', 'none', or a list of names")
        if not isinstance(self.measurements, str):
            object.__setattr__(self, "measurements", tuple(self.measurements))

    @property
    def attribution(self) -> AttributionSettings:
        """What is asked of every attribution; each prompt's own scores are kept, for intervals over prompts."""
        return AttributionSettings(ig_steps=self.ig_steps, rule=self.rule, kv=self.kv, keep_per_example=True)

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a JSON side file."""
        return asdict(self)
