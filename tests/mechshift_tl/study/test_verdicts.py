"""Every rule of the verdicts, on evidence made by hand; Holm's correction against its definition."""

from __future__ import annotations

import json
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import pytest
import torch

from mechshift_tl.circuits.permuted import OverlapNull
from mechshift_tl.evaluation.carried import Carried
from mechshift_tl.evaluation.size import FaithfulSize
from mechshift_tl.intervals import Interval
from mechshift_tl.study.answers import CANNOT_TELL, Answer, Verdicts
from mechshift_tl.study.gains import Gain
from mechshift_tl.study.likeness import Likeness
from mechshift_tl.study.p_values import holm, p_not_at_least, p_not_below, p_of_some
from mechshift_tl.study.verdict_evidence import VerdictEvidence
from mechshift_tl.study.verdicts import Rules, judge, what_became_of_the_circuit

LIKE = Likeness(40, {"arm": 1.0, "mdm": 1.0}, 1.0, 1.0, (0, 1))


def carried(by_id: tuple[float, float], matched: tuple[float, float], spread: float = 0.02) -> Carried:
    """τ by id and matched, in each direction, with draws spread evenly around them."""
    tau = torch.tensor([by_id, matched], dtype=torch.float64)
    draws = tau + torch.linspace(-spread, spread, 999, dtype=torch.float64)[:, None, None]
    return Carried(40, ("arm", "mdm"), ("id", "weights"), torch.ones(2), torch.zeros(2), tau, tau, draws)


def gain(value: float, spread: float = 0.0105) -> Gain:
    return Gain(100, ("control", "arm"), value, value + torch.linspace(-spread, spread, 1999), {"mdm": value, "control": 0.0, "arm": 0.0})


def evidence(**changed: object) -> VerdictEvidence:
    """Of two models that share all, with what is to differ."""
    overlap = OverlapNull(0.9, 9, 10, Interval(0.2, 0.1, 0.3, 999), 0.001, 999, False, Interval(0.88, 0.8, 0.95, 200))
    whole = VerdictEvidence(
        "ioi", "mdm", LIKE, FaithfulSize(0.05, "", ()), carried((1, 1), (1, 1)), overlap, gain(0.0), gain(0.0)
    )  # fmt: skip
    return replace(whole, **changed)


def answers_of(found: list[VerdictEvidence]) -> tuple[Answer, ...]:
    return judge(found).answers


@pytest.mark.parametrize(
    ("by_id", "matched", "spread", "answer"),
    [
        ((1, 1), (1, 1), 0.02, "kept"),
        ((0.8, 0.95), (0.8, 0.95), 0.02, "kept"),
        ((0.8, 0.95), (0.8, 0.95), 0.2, CANNOT_TELL),
        ((-0.2, 0.1), (1, 0.9), 0.02, "moved"),
        ((0.5, 1), (1, 0.9), 0.02, "moved"),  # by id in one direction alone
        ((0.5, 0.6), (0.4, 0.5), 0.02, "partly kept"),
        ((0, 0.1), (0.45, 0.5), 0.02, "partly kept"),  # partly, on other heads
        ((0, 0.1), (0.1, 0.2), 0.02, "replaced"),
        ((0, 0.6), (0.1, 0.2), 0.02, "partly kept"),  # in one direction alone
        ((0.29, 0.31), (0.1, 0.2), 0.02, CANNOT_TELL),
        ((0.7, 0.7), (0.7, 0.7), 0.02, CANNOT_TELL),
        ((-1, -1), (nan, nan), 0.02, CANNOT_TELL),  # a matching whose τ has no meaning
    ],
)  # fmt: skip
def test_what_tau_says(by_id: tuple[float, float], matched: tuple[float, float], spread: float, answer: str) -> None:
    assert answers_of([evidence(carried=carried(by_id, matched, spread))])[0].answer == answer


def test_kept_needs_more_shared_edges_than_permuted_heads() -> None:
    overlap = OverlapNull(0.4, 4, 10, Interval(0.4, 0.3, 0.5, 999), 0.4, 999, False)
    (circuit, *_) = answers_of([evidence(overlap=overlap)])
    assert circuit.answer == CANNOT_TELL and "p 0.4" in circuit.why


def test_neurons_in_other_places_have_moved() -> None:
    elsewhere, fresh = (replace(LIKE, neurons_in_place=0.0, neuron_similarity=similarity) for similarity in (1.0, 0.2))
    assert answers_of([evidence(likeness=elsewhere)])[0].answer == "moved"
    assert answers_of([evidence(likeness=fresh)])[0].answer == "kept"


@pytest.mark.parametrize("accuracy", [{"arm": 1.0, "mdm": 0.1}, {"arm": 0.4, "mdm": 1.0}])
def test_a_model_that_does_not_do_the_task_tells_nothing(accuracy: dict[str, float]) -> None:
    answers = answers_of([evidence(likeness=replace(LIKE, accuracy=accuracy), early=gain(0.5), spread=gain(0.5))])
    assert [one.answer for one in answers] == [CANNOT_TELL] * 3
    assert all(isnan(one.p) and "of 40 prompts correctly" in one.why for one in answers)


def test_no_faithful_size_tells_nothing() -> None:
    circuit, *others = answers_of([evidence(size=FaithfulSize(None, "not faithful at any size", ()), carried=None, overlap=None)])
    assert (circuit.answer, circuit.why) == (CANNOT_TELL, "not faithful at any size")
    assert [one.answer for one in others] == ["no", "no"]


@pytest.mark.parametrize(
    ("value", "spread", "answer"), [(0.0, 0.01, "no"), (0.2, 0.01, "yes"), (0.05, 0.02, CANNOT_TELL), (-0.2, 0.01, "no")]
)
def test_front_loaded(value: float, spread: float, answer: str) -> None:
    found = answers_of([evidence(early=gain(value, spread))])[1]
    assert found.question == "front_loaded" and found.answer == answer and found.figures["gain"] == value


def test_depth_is_claimed_only_where_layers_align() -> None:
    found = answers_of([evidence(early=gain(0.5), likeness=replace(LIKE, layers=(1, 2, None)))])[1]
    assert found.answer == CANNOT_TELL and "layer 0 is most like layer 1" in found.why
    assert answers_of([evidence(early=gain(0.5), likeness=replace(LIKE, layers=(0, 1, None)))])[1].answer == "yes"


def test_distributed_and_no_control() -> None:
    assert answers_of([evidence(spread=gain(0.3))])[2].answer == "yes"
    answers = answers_of([evidence(early=None, spread=None)])
    assert [one.answer for one in answers] == ["kept", CANNOT_TELL, CANNOT_TELL] and "control" in answers[2].why


def test_many_answers_are_corrected() -> None:
    """p of 2/1000 stands alone, and among 60 answers it does not."""
    draws = carried((1, 1), (1, 1))
    draws.draws[0] = 0.5
    one = what_became_of_the_circuit(evidence(carried=draws), Rules())
    assert (one.answer, one.p) == ("kept", 0.002)
    assert answers_of([evidence(carried=draws)])[0].answer == "kept"
    assert answers_of([evidence(carried=draws)] * 20)[0].answer == CANNOT_TELL


def test_p_values_add_one() -> None:
    draws = torch.tensor([0.1, 0.2, 0.3, nan], dtype=torch.float64)
    assert p_not_at_least(0.2, draws) == 3 / 5 and p_not_below(0.2, draws) == 4 / 5


def test_holm() -> None:
    assert holm([0.01, 0.04, nan, 0.03]) == pytest.approx([0.03, 0.06, nan, 0.06], nan_ok=True)
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_verdicts_are_kept_and_shown(tmp_path: Path) -> None:
    verdicts = judge([evidence(task="<b>ioi"), evidence(task="sum", role="control", early=None)])
    verdicts.save(tmp_path / "v.json")
    again = Verdicts.load(tmp_path / "v.json")
    assert again.to_dataframe().equals(verdicts.to_dataframe())
    assert "<b>ioi" not in verdicts._repr_html_() and len(verdicts.figure().to_dict()["data"]) == 2
    verdicts.write_by_task(tmp_path / "verdicts.json")
    found = json.loads((tmp_path / "verdicts.json").read_text())
    assert found["<b>ioi"]["mdm"]["circuit"] == "kept" and found["sum"]["control"]["front_loaded"] == CANNOT_TELL
    assert found["<b>ioi"]["mdm"]["figures"]["circuit"]["tau_by_id"] == 1
    assert found["sum"]["control"]["figures"]["front_loaded"]["p"] is None and set(found["sum"]) == {"control"}
    assert set(found["sum"]["control"]) == {"circuit", "front_loaded", "distributed", "figures"}


def test_a_sentence_per_task() -> None:
    verdicts = judge([evidence(), evidence(role="control"), evidence(task="sum", carried=carried((0.7, 0.7), (0.7, 0.7)), early=None)])
    ioi, total = verdicts.sentence().split("\n")
    assert ioi.startswith("ioi: in the MDM the ARM's circuit is kept (τ 1.00 [0.98, 1.02] by id; 9 of 10 edges shared, J 0.90 beside 0.20")
    assert "the work is not front-loaded (early share +0.000 [−0.010, +0.010] beyond control and ARM, n 100)" in ioi
    assert "; in the control the ARM's circuit is kept" in ioi and ioi.endswith(").")
    assert "it cannot be told what became of the ARM's circuit" in total
    assert "; so many prompts can show a change of τ by 0.032 and of J by 0.11)" in total
    assert "it cannot be told whether the work is front-loaded (no control" in total
    assert judge([]).sentence() == ""


def test_thresholds_can_be_set() -> None:
    found = [evidence(carried=carried((0.5, 0.6), (0.5, 0.6)), early=gain(0.03))]
    assert [one.answer for one in judge(found, Rules(kept=0.4, early=0.01)).answers[:2]] == ["kept", "yes"]
    with pytest.raises(ValueError, match="0 < replaced < kept"):
        Rules(kept=0.2)


def test_some_of_several() -> None:
    assert p_of_some([0.01, 0.5, 0.2]) == pytest.approx(0.03) and p_of_some([0.9, 0.8]) == 1


def test_evidence_is_kept(tmp_path: Path) -> None:
    given = (evidence(), evidence(role="control", early=None, spread=None, carried=None, overlap=None, size=FaithfulSize(None, "no", ())))
    for one in given:
        one.save(tmp_path)
    again = VerdictEvidence.load(tmp_path, "ioi", ["mdm", "control"])
    assert str(judge(again).by_task()) == str(judge(given).by_task())
