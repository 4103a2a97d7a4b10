"""Circuits run on the same prompts again and again: each set of edges runs once in each model.

A search over sizes, and circuits carried between models, ask for the same runs: the ARM's own circuit is held against every other model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import Unpack

from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.evaluation.run import CircuitRun, RunSettings, run_circuits
from mechshift_tl.readouts import Readouts


class CircuitRuns:
    """Models by role, the readouts that circuits run on, and every run there was.

    - `models`, `readouts`: by role; readouts of the same examples, in the same order. `settings`: of `run_circuits`.

    Raises ValueError where the readouts hold different numbers of examples.
    """

    def __init__(self, models: Mapping[str, HookedModel], readouts: Mapping[str, Readouts], **settings: Unpack[RunSettings]) -> None:
        sizes = {role: readouts[role].n_examples for role in models}
        if len(set(sizes.values())) > 1:
            held = " and ".join(f"{n} ({role})" for role, n in sizes.items())
            raise ValueError(f"CircuitRuns: the readouts hold {held} examples; give the same ones")
        self.models, self.readouts, self.settings = models, readouts, settings
        self.n_examples = next(iter(sizes.values()))
        self._done: dict[tuple[str, bytes], CircuitRun] = {}

    def of(self, role: str, circuits: Sequence[Circuit]) -> list[CircuitRun]:
        """Each circuit's run in the model of `role`. Those that did not run before run now, together. Raises as `run_circuits` does."""
        keys = [(role, circuit.edges.numpy().tobytes()) for circuit in circuits]
        new = {key: circuit for key, circuit in zip(keys, circuits, strict=True) if key not in self._done}
        if new:
            runs = run_circuits(self.models[role], self.readouts[role], list(new.values()), **self.settings)
            self._done.update(zip(new, runs, strict=True))
        return [self._done[key] for key in keys]
