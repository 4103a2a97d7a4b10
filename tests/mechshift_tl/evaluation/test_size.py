"""The size found is faithful, and what lies just below it is not; where there is none, the result says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mechshift_tl.attribution import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.evaluation.faithfulness import faithfulness
from mechshift_tl.evaluation.run_once import CircuitRuns
from mechshift_tl.evaluation.size import FaithfulSize, SizeSearch, _Search, faithful_size
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts

ASKED = SizeSearch(recovers=0.6, clear=-9.0, smallest=0.02, largest=1.0, halvings=7, n_null=3, n_boot=100)


@pytest.fixture(scope="module")
def parts(solved: Callable[..., Any]) -> tuple[Any, Any, Readouts]:
    model, rows = solved(24)
    return model, attribute(model, rows.select(range(12))), rows.select(range(12, 24))


def test_just_large_enough(parts: tuple[Any, Any, Readouts]) -> None:
    model, scores, rows = parts
    found = faithful_size(CircuitRuns({"arm": model}, {"arm": rows}), {"arm": scores}, ASKED)
    assert found.share is not None and found.reason == ""
    chosen = found.chosen["arm"]
    again = faithfulness(model, rows, Circuit.from_scores(scores, fraction=found.share), n_boot=100)
    assert (chosen.value, chosen.low, chosen.kept, chosen.accuracy) == (again.value, again.low, again.kept, again.clean_accuracy)
    assert chosen.low >= 0.6
    below = [one for one in found.tried if one.share < found.share]
    nearest = max(one.share for one in below)
    assert found.share / nearest <= 50 ** (1 / 2**7) + 1e-9 and all(one.low < 0.6 for one in below if one.share == nearest)


def test_every_model_must_be_faithful(parts: tuple[Any, Any, Readouts]) -> None:
    """The scores of the second model are noise, so its circuits need many more edges."""
    model, scores, rows = parts
    noise = torch.randn(scores.matrix.shape, generator=torch.Generator().manual_seed(0)) * scores.graph.possible
    both = {"arm": scores, "mdm": replace(scores, matrix=noise)}
    alone = faithful_size(CircuitRuns({"arm": model}, {"arm": rows}), {"arm": scores}, ASKED)
    found = faithful_size(CircuitRuns({"arm": model, "mdm": model}, {"arm": rows, "mdm": rows}), both, ASKED)
    assert alone.share is not None
    assert found.share is None or found.share > alone.share


def test_not_faithful_at_any_size(parts: tuple[Any, Any, Readouts]) -> None:
    model, scores, rows = parts
    found = faithful_size(CircuitRuns({"arm": model}, {"arm": rows}), {"arm": scores}, SizeSearch(largest=0.02, n_boot=50))
    assert found.share is None and "not faithful at any size" in found.reason and found.chosen == {}


def test_never_clear_of_the_null(parts: tuple[Any, Any, Readouts]) -> None:
    model, scores, rows = parts
    found = faithful_size(
        CircuitRuns({"arm": model}, {"arm": rows}),
        {"arm": scores},
        SizeSearch(clear=0.69, smallest=0.9, largest=1.0, larger=1, n_null=2, n_boot=50),
    )
    assert found.share is None and "never clear of the null" in found.reason
    assert sum(one.null == one.null for one in found.tried) in (1, 2)


def test_no_gap_is_a_result(parts: tuple[Any, Any, Readouts]) -> None:
    model, scores, rows = parts
    same = Readouts.from_tokens(rows.clean, rows.clean, rows.target_pos, rows.answer_ids, rows.foil_ids)
    found = faithful_size(CircuitRuns({"arm": model}, {"arm": same}), {"arm": scores}, SizeSearch(n_boot=50))
    assert found.share is None and "no meaning" in found.reason


def test_it_is_kept_and_shown(parts: tuple[Any, Any, Readouts], tmp_path: Any) -> None:
    model, scores, rows = parts
    found = faithful_size(CircuitRuns({"<b>x": model}, {"<b>x": rows}), {"<b>x": scores}, SizeSearch(0.5, 0, 0.05, 1, 2, 0, 2, 20))
    found.save(tmp_path / "s.json")
    again = FaithfulSize.load(tmp_path / "s.json")
    assert (again.share, again.search, len(again.tried)) == (found.share, found.search, len(found.tried))
    assert found.to_dataframe()["share"].is_monotonic_increasing and "<b>x" not in found._repr_html_()
    assert len(found.figure().to_dict()["data"]) == 2


@pytest.mark.parametrize("wrong", [{"smallest": 0.5}, {"largest": 1.5}, {"halvings": 0}, {"n_null": 0}, {"n_boot": 0}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SizeSearch(**wrong)


def test_one_head_per_layer_has_no_null(parts: tuple[Any, Any, Readouts]) -> None:
    model, scores, rows = parts
    lone = replace(scores, graph=Graph(2, 1, 1), matrix=torch.zeros(Graph(2, 1, 1).shape), per_step=torch.zeros(1, *Graph(2, 1, 1).shape))
    found = faithful_size(CircuitRuns({"arm": model}, {"arm": rows}), {"arm": lone}, ASKED)
    assert found.share is None and "one head each" in found.reason and found.tried == ()


def test_smaller_sizes_are_tried_where_the_largest_recovers_too_little(
    parts: tuple[Any, Any, Readouts], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, scores, rows = parts
    looked = _Search(CircuitRuns({"arm": model}, {"arm": rows}), {"arm": scores}, SizeSearch(), 0, [])
    monkeypatch.setattr(_Search, "_recovers", lambda self, share: 0.05 < share < 0.2)
    share = looked._smallest_faithful()
    assert share is not None and 0.05 < share < 0.2
