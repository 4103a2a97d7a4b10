"""The settings of a study, checked when they are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from mechshift_tl.attribution.path import Method, Rule
from mechshift_tl.attribution.settings import AttributionSettings, PathSettings, path_settings
from mechshift_tl.compare.depth import default_cut
from mechshift_tl.evaluation.size import SizeSearch
from mechshift_tl.graph import KV
from mechshift_tl.study.verdict_evidence import VerdictSettings
from mechshift_tl.study.verdicts import Rules

#: What a quick study asks for: figures to look at in minutes, with wider intervals.
QUICK: dict[str, Any] = {
    "n": 48,
    "held_out": 20,
    "n_boot": 100,
    "n_random": 100,
    "validity_n": 3,
    "validity_edges": 16,
    "null_circuits": 4,
    "measurements": "quick",
}


@dataclass(frozen=True)
class StudyConfig:
    """Settings of one study.

    - `n`: prompts per task, read correctly by every model of the pair; `seed`: of prompts, floors and intervals.
    - `method`, `ig_steps`, `rule`, `gap`, `kv`: of the attribution; points and their rule count where the method takes them, and a gap
      chooses the number of points.
    - `edges`: circuit size (None: min(1000, 5 % of the possible edges)); `components`: K of the component overlap (None: see `compare`).
    - `cut`: layers that count as early (None: the first third); `neuron_layer`: whose neurons are shown (None: the last early layer).
    - `n_boot`, `n_random`: draws behind intervals and floors.
    - `held_out`: further prompts, read correctly as well, on which circuits are run; 0 runs none.
    - `validity_n`, `validity_edges`: of these, prompts on which edges are patched exactly (0: none), and how many top and random edges.
    - `recovers`, `clear`: what both own circuits must recover, and by how much they must exceed their null, for a verdict
      (`evaluation.size`); `null_circuits`: circuits on permuted heads behind that null.
    - `kept`, `replaced`, `early_margin`, `spread_margin`: thresholds of the verdicts (`study.verdicts.Rules`).
    - `verdict_draws`, `permutations`: draws of prompts, and of heads, behind the verdicts' p-values.
    - `measurements`: "all", those of a "quick" study, "none", or names of `study.measurements`.
    """

    n: int = 200
    seed: int = 0
    method: Method = "EAP-IG-inputs"
    ig_steps: int = 5
    rule: Rule = "midpoint"
    gap: float | None = None
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
    recovers: float = 0.7
    clear: float = 0.15
    null_circuits: int = 8
    kept: float = 0.7
    replaced: float = 0.3
    early_margin: float = 0.05
    spread_margin: float = 0.1
    verdict_draws: int = 10_000
    permutations: int = 2000
    measurements: Literal["all", "quick", "none"] | tuple[str, ...] = "all"

    def __post_init__(self) -> None:
        self._check_types()
        _ = self.attribution, self.rules
        least_of = {"n": 2, "edges": 1, "components": 1, "cut": 1, "neuron_layer": 0, "n_boot": 0, "n_random": 1}
        least_of |= {"held_out": 0, "validity_n": 0, "validity_edges": 2, "null_circuits": 1, "verdict_draws": 1, "permutations": 1}
        for name, least in least_of.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"StudyConfig.{name} is {value}; it must be at least {least}")
        _ = self.verdict
        if isinstance(self.measurements, str) and self.measurements not in ("all", "quick", "none"):
            raise ValueError(f"StudyConfig.measurements is {self.measurements!r}; give 'all', 'quick', 'none', or a list of names")
        if not isinstance(self.measurements, str):
            object.__setattr__(self, "measurements", tuple(self.measurements))

    def _check_types(self) -> None:
        """Raise ValueError on a value that a file or a caller gave as another type: by each field's default, None where that is allowed."""
        for one in fields(self):
            value = getattr(self, one.name)
            if one.default is None and value is None or one.name == "measurements":
                continue
            wanted = float if one.name == "gap" else int if one.default is None else type(one.default)
            good = isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(value, bool)
            if not good:
                kind = {int: "a whole number", float: "a number", str: "a text"}[wanted]
                raise ValueError(f"StudyConfig.{one.name} is {value!r}; give {kind}")

    @classmethod
    def quick(cls, **changed: Any) -> StudyConfig:
        """The settings of a quick study, less what is `changed`."""
        return cls(**(QUICK | changed))

    def early_layers(self, n_layers: int) -> int:
        """How many of a model's layers count as early: `cut`, or else the first third."""
        return self.cut or default_cut(n_layers)

    @property
    def attribution(self) -> AttributionSettings:
        """What is asked of every attribution; each prompt's own scores are kept, for intervals over prompts."""
        return AttributionSettings(**self.path, kv=self.kv, keep_per_example=True)

    @property
    def path(self) -> PathSettings:
        """The method, with the settings of its path as far as it takes them."""
        return path_settings(self.method, ig_steps=self.ig_steps, rule=self.rule, gap=self.gap)

    @property
    def rules(self) -> Rules:
        """The thresholds of the verdicts."""
        return Rules(self.kept, self.replaced, self.early_margin, self.spread_margin)

    @property
    def verdict(self) -> VerdictSettings:
        """How the evidence behind the verdicts is gathered."""
        search = SizeSearch(recovers=self.recovers, clear=self.clear, n_null=self.null_circuits)
        return VerdictSettings(search, self.cut, self.verdict_draws, self.permutations, self.n_boot, self.seed)

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a JSON side file."""
        return asdict(self)
