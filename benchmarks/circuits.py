"""What running a circuit costs, in plain forwards of the Hugging Face model, as it keeps more edges.

Run alone, a circuit needs the clean and the corrupt run beside its own; of several run together each further one needs its own alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.comparison import Target
from benchmarks.measure import Cost, costs
from benchmarks.sizes import Size, hooked, native, prompts
from benchmarks.tables import markdown
from mechshift_tl import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.evaluation.run import run_circuits

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
#: Plain forwards that a circuit may take, and up to which share of the edges.
LIMIT, LIMIT_SHARE = 3.0, 0.02
TOGETHER = 5


@dataclass(frozen=True)
class CircuitCosts:
    """Per share of kept edges the cost of one circuit run alone, and of `TOGETHER` at once; `forward` is a plain forward of the prompts."""

    size: Size
    forward: Cost
    alone: dict[float, Cost]
    together: dict[float, Cost]

    def further(self, share: float) -> float:
        """Seconds of each further circuit."""
        return (self.together[share].least - self.alone[share].least) / (TOGETHER - 1)

    def markdown(self) -> str:
        """A row per share: seconds and plain forwards, alone and each further, and memory."""
        forward = self.forward.least
        rows = [
            [
                f"{100 * share:g} %", f"{cost.least:.3f}", f"{cost.least / forward:.2f}", f"{self.further(share):.3f}",
                f"{self.further(share) / forward:.2f}", f"{cost.mib:.0f}",
            ]
            for share, cost in self.alone.items()
        ]  # fmt: skip
        return markdown(["kept edges", "alone s", "forwards", "each further s", "forwards", "peak MiB"], rows)

    def targets(self) -> list[Target]:
        """The largest share that is held to the limit, run alone and as a further one."""
        share = max((share for share in self.alone if share <= LIMIT_SHARE), default=None)
        if share is None:
            return []
        found = {"alone": self.alone[share].least, "each further": self.further(share)}
        return [Target(f"circuit of {100 * share:g} %, {how}, in forwards", s / self.forward.least, LIMIT) for how, s in found.items()]


def circuit_costs(size: Size, repeats: int, shares: tuple[float, ...] = SHARES) -> CircuitCosts:
    """Measure circuits of the strongest edges, one and `TOGETHER` at a time."""
    model, readouts = native(size), prompts(size)
    bridge = hooked(model)
    scores = attribute(bridge, readouts, ig_steps=1)
    circuits = {share: Circuit.from_scores(scores, fraction=share, zeros=True, prune=False) for share in shares}
    runs: dict[str, Callable[[], Any]] = {"forward": torch.no_grad()(partial(model, readouts.clean))}
    for share, circuit in circuits.items():
        runs[f"alone {share}"] = partial(run_circuits, bridge, readouts, [circuit])
        runs[f"together {share}"] = partial(run_circuits, bridge, readouts, [circuit] * TOGETHER)
    measured = costs(runs, repeats)
    alone, together = ({share: measured[f"{how} {share}"] for share in shares} for how in ("alone", "together"))
    return CircuitCosts(size, measured["forward"], alone, together)
