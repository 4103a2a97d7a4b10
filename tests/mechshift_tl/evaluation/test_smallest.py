"""The smallest size that is enough: it is, the one below is not, and where none is, the result says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mechshift_tl.attribution import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.select import Selection
from mechshift_tl.evaluation.faithfulness import faithfulness
from mechshift_tl.evaluation.smallest import SmallestCircuit, smallest_circuit


def test_it_is_enough_and_one_edge_less_is_not(solved: Callable[..., Any], tmp_path: Path) -> None:
    model, rows = solved(16)
    scores = attribute(model, rows.select(range(8)), ig_steps=2)
    held_out = rows.select(range(8, 16))
    found = smallest_circuit(model, held_out, scores, recovers=0.7, n_boot=50)
    assert found.n is not None and 1 < found.n < scores.graph.n_edges
    values = {n: faithfulness(model, held_out, Circuit.from_scores(scores, n), n_boot=50).value for n in (found.n - 1, found.n)}
    assert values[found.n] >= 0.7 > values[found.n - 1]
    assert len(found.tried) <= 12 and found.requested[0] == scores.graph.n_edges
    assert len(found.figure().to_dict()["data"][0]["x"]) == len(found.tried)
    found.save(tmp_path / "smallest.json")
    assert SmallestCircuit.load(tmp_path / "smallest.json").to_dataframe().equals(found.to_dataframe())
    small = smallest_circuit(model, held_out, scores, recovers=1.0, chosen=Selection(2, greedy=True), n_boot=50)
    assert small.n is None and small.requested == (2,)
    with pytest.raises(ValueError, match=r"recovers is 1.5; give a share of the behaviour in \(0, 1\]"):
        smallest_circuit(model, held_out, scores, recovers=1.5)
