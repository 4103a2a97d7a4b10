"""Every combination of answers is a sentence, and says what the answers say."""

import itertools

import pytest

from mechshift_tl.study.answers import CANNOT_TELL, Answer, Verdicts
from mechshift_tl.study.brief import Brief, briefs

ANSWERS = {"circuit": ("kept", "partly kept", "moved", "replaced", CANNOT_TELL), "front_loaded": ("yes", "no", CANNOT_TELL)}
ANSWERS |= {"distributed": ANSWERS["front_loaded"]}


def brief(mdm: dict[str, str], control: str | None = None, corrected: float = 0.01) -> Brief:
    answers = [Answer("ioi", "mdm", question, answer, 0.001, "why", corrected) for question, answer in mdm.items()]
    if control:
        answers.append(Answer("ioi", "control", "circuit", control, 0.001, "why", 0.01))
    (one,) = briefs(Verdicts(tuple(answers)))
    return one


def test_a_sentence_for_every_answer():
    said = set()
    for mdm in itertools.product(*ANSWERS.values()):
        for control in (None, *ANSWERS["circuit"]):
            sentence = brief(dict(zip(ANSWERS, mdm, strict=True)), control).sentence
            assert sentence.endswith(".") and sentence.count(".") == 1 and len(sentence.split()) <= 45
            said.add(sentence)
    assert len(said) == 5 * 3 * 3 * 6


def test_what_is_the_same_is_said_once():
    one = brief({"circuit": "kept", "front_loaded": "no", "distributed": CANNOT_TELL}, "kept")
    assert one.sentence == (
        "the MDM keeps the ARM’s circuit, as the control does; its work did not move to early layers; "
        "whether its work spread over more components cannot be told."
    )


@pytest.mark.parametrize(
    ("answer", "corrected", "strength"), [("kept", 0.0005, 2), ("kept", 0.02, 1), (CANNOT_TELL, 0.5, 0), ("kept", float("nan"), 1)]
)
def test_strength(answer, corrected, strength):
    assert brief({"circuit": answer}, corrected=corrected).strength == strength


def test_nothing_is_said_of_a_study_without_verdicts():
    assert briefs(Verdicts(())) == []
