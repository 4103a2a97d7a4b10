"""How time and memory grow: one factor doubled at a time from one small size, the others held."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.comparison import Target
from benchmarks.floor import floor
from benchmarks.measure import Cost, costs
from benchmarks.sizes import Size, hooked, native, prompts
from benchmarks.tables import markdown
from mechshift_tl import attribute

START = Size(4, 256, 8, 8)
FACTORS = ("layers", "width", "heads", "tokens", "prompts", "ig_steps")
#: What is linear must not more than double, with a tenth for the clock.
LINEAR = {"prompts": 2.2, "ig_steps": 2.2}


@dataclass(frozen=True)
class Growth:
    """One factor's values, and the costs of floor and attribute at each."""

    factor: str
    values: tuple[int, ...]
    costs: tuple[dict[str, Cost], ...]

    def markdown(self) -> str:
        """A row per value; growth is the time divided by the row's before."""
        rows, before = [], None
        for value, cost in zip(self.values, self.costs, strict=True):
            ours, plain = cost["attribute"], cost["floor"]
            grown = "" if before is None else f"{ours.least / before.least:.2f}"
            rows.append([str(value), f"{plain.least:.3f}", f"{ours.least:.3f}", grown, f"{ours.least / plain.least:.2f}"])
            rows[-1] += [f"{plain.mib:.0f}", f"{ours.mib:.0f}"]
            before = ours
        head = [self.factor, "floor s", "attribute s", "growth", "ratio", "floor MiB", "attribute MiB"]
        return markdown(head, rows)

    def targets(self) -> list[Target]:
        """The last doubling of what must be linear; what attribution costs beside the floor must fall as the model widens."""
        if self.factor == "width":
            ratios = [cost["attribute"].least / cost["floor"].least for cost in self.costs]
            return [Target("attribute / floor at the greatest width, as a share of that at the least", ratios[-1] / ratios[0], 1.0)]
        if self.factor not in LINEAR:
            return []
        last, before = (cost["attribute"].least for cost in self.costs[:-3:-1])
        return [Target(f"time of attribute when {self.factor} doubles", last / before, LINEAR[self.factor])]


def growth(factor: str, repeats: int, start: Size = START, doublings: int = 2) -> Growth:
    """Measure floor and attribute while `factor` doubles."""
    values = tuple(getattr(start, factor) << k for k in range(doublings + 1))
    changes: list[dict[str, Any]] = [{factor: value} | ({"kv_heads": value} if factor == "heads" else {}) for value in values]
    return Growth(factor, values, tuple(_at(replace(start, **change), repeats) for change in changes))


def _at(size: Size, repeats: int) -> dict[str, Cost]:
    model, readouts, m = native(size), prompts(size), size.ig_steps
    bridge = hooked(model)
    ours = {"floor": lambda: floor(model, readouts, m), "attribute": lambda: attribute(bridge, readouts, ig_steps=m)}
    return costs(ours, repeats)
