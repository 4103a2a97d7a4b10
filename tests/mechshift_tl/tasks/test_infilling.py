"""One word per pair of cues, what a corruption swaps, and the text that follows the answer on both models' canvases."""

from __future__ import annotations

import random
import re
from itertools import islice
from typing import Any, cast

import pytest
import torch

from mechshift_tl.readouts import readouts
from mechshift_tl.readouts.commit_order import commit_orders
from mechshift_tl.tasks import SemanticInfilling, TextPair
from mechshift_tl.tasks.decoding import decode_answers
from mechshift_tl.tasks.examples import Examples, encode_pair
from mechshift_tl.tasks.infilling import COLOUR_OF, FRAMES, KIND_OF, THINGS, VERBS, WORDS, word_of
from mechshift_tl.tasks.ioi import NAMES
from mechshift_tl.tasks.task import Split


def drawn(task: SemanticInfilling, n: int = 300, split: Split = "held_out") -> list[TextPair]:
    return list(islice(task.draw(random.Random(0), split), n))


def cues_in(text: str) -> tuple[str, str]:
    (verb,), (thing,) = (set(re.findall(r"\w+", text)) & set(cues) for cues in (KIND_OF, COLOUR_OF))
    return verb, thing


def test_both_cues_leave_one_word_and_neither_alone_does() -> None:
    words = [word for row in WORDS.values() for word in row.values()]
    assert len(set(words)) == len(words) == len(VERBS) * len(THINGS)
    for row in WORDS.values():
        assert set(row) == set(THINGS)
    assert len(KIND_OF) == sum(map(len, VERBS.values())) and len(COLOUR_OF) == sum(map(len, THINGS.values()))
    assert word_of("fed", "blood") == "lobster" and word_of("peeled", "butter") == "banana"


def test_a_sentence_by_hand() -> None:
    pair = next(p for p in drawn(SemanticInfilling(), 3000) if p.group == "0:left")
    name = pair.prompt.split()[0]
    verb, thing = cues_in(pair.prompt)
    colour = COLOUR_OF[thing]
    assert pair.suffix == f" that was as {colour} as {thing}." == pair.corrupt_suffix
    assert pair.prompt == f"{name} {verb} the ___{pair.suffix} In full: {name} {verb} the"
    assert pair.answer == f" {word_of(verb, thing)}" and pair.foil == pair.corrupt_answer


@pytest.mark.parametrize("restate", [True, False])
@pytest.mark.parametrize("corruption", ["left", "right", "either"])
def test_a_corruption_swaps_one_cue(corruption, restate: bool) -> None:
    for pair in drawn(SemanticInfilling(corruption=corruption, restate=restate)):
        (verb, thing), (other_verb, other_thing) = (
            cues_in(p + s) for p, s in ((pair.prompt, pair.suffix), (pair.corrupt_prompt, pair.corrupt_suffix))
        )
        side = pair.group.split(":")[1]
        assert corruption in (side, "either") and (other_verb == verb) == (side == "right") and (other_thing == thing) == (side == "left")
        assert (KIND_OF[verb] == KIND_OF[other_verb]) == (side == "right") and (COLOUR_OF[thing] == COLOUR_OF[other_thing]) == (
            side == "left"
        )
        assert pair.answer.strip() == word_of(verb, thing) and pair.foil.strip() == word_of(other_verb, other_thing)
        assert ("___" in pair.prompt) == restate and pair.answer not in pair.prompt and pair.answer not in pair.suffix


def test_held_out_are_meetings_of_cues_and_every_cue_is_trained() -> None:
    task = SemanticInfilling()
    held_out, train = set(task.cues("held_out")), set(task.cues("train"))
    assert not held_out & train and len(held_out | train) == len(KIND_OF) * len(COLOUR_OF) and 0.05 < len(held_out) / 320 < 0.15
    assert {v for v, _ in train} == set(KIND_OF) and {t for _, t in train} == set(COLOUR_OF)
    assert {word_of(*cues) for cues in train} == {word for row in WORDS.values() for word in row.values()}
    texts = task.training_texts(5000)
    assert {cues_in(prompt) for prompt, _, _ in texts} == train and all(answer.strip() == word_of(*cues_in(p)) for p, answer, _ in texts)


def test_draws_are_distinct_and_as_many_as_said() -> None:
    task = SemanticInfilling()
    pairs = drawn(task, 100_000)
    assert (
        len(pairs) == len({p.prompt for p in pairs}) == task.capacity("held_out") == len(task.cues("held_out")) * len(FRAMES) * len(NAMES)
    )
    assert pairs == drawn(task, 100_000) and {p.group for p in pairs} == {f"{i}:{side}" for i in range(3) for side in ("left", "right")}


@pytest.mark.parametrize("kind", ["five", "bpe"])
def test_the_suffix_is_aligned(request, kind: str) -> None:
    tokenizer = request.getfixturevalue(kind)
    task = SemanticInfilling()
    for example in task.examples(tokenizer, 40):
        assert len(example.suffix) == len(example.corrupt_suffix) > 0 and len(example.clean) == len(example.corrupt)
        assert tokenizer.decode(example.answer).strip() == example.pair.answer.strip()
        whole = tokenizer(example.pair.prompt + example.pair.answer + example.pair.suffix)["input_ids"]
        assert (*example.clean, *example.suffix) == tuple(whole)
        assert task.solved(example, tokenizer.decode(example.answer)) and not task.solved(example, tokenizer.decode(example.foil))
        if kind == "five":
            assert example.readable == (True,)


def test_the_word_stands_between_its_sides_on_the_canvas(five, tiny_for) -> None:
    """The MDM's mask has the suffix behind it; the ARM's canvas holds the answer and the same suffix, which it never sees."""
    examples = SemanticInfilling().examples(five, 30)
    for role, model in tiny_for(five).items():
        made = readouts(model, examples)
        for i, (example, row) in enumerate(zip(examples, made.clean.tolist(), strict=True)):
            length = len(example.clean) + len(example.suffix)
            assert row[: example.answer_start] == list(example.clean[: example.answer_start])
            assert row[example.answer_start] == (five.mask_token_id if role == "mdm" else example.answer[0])
            assert tuple(row[len(example.clean) : length]) == example.suffix and row[length] == five.eos_token_id
            assert tuple(made.corrupt[i].tolist()[len(example.clean) : length]) == example.corrupt_suffix
            assert made.target_pos[i].tolist() == [example.answer_start]


def test_an_mdm_reads_the_suffix_and_an_arm_does_not(five, tiny_for) -> None:
    examples = SemanticInfilling(corruption="right", restate=False).examples(five, 20)
    models = tiny_for(five)
    for role in ("arm", "mdm"):
        for batch in readouts(models[role], examples).batches(8192):
            moved = (batch.logits(models[role]) - batch.logits(models[role], "corrupt")).abs().max().item()
            assert (moved > 0) == (role == "mdm")


@torch.no_grad()
def test_an_mdm_decodes_between_the_sides(five, tiny_for) -> None:
    model, task = tiny_for(five)["mdm"], SemanticInfilling()
    examples = task.examples(five, 12)
    expected = []
    for e in examples:
        canvas = torch.tensor([[*e.clean[: e.answer_start], five.mask_token_id, *e.suffix, five.eos_token_id]])
        expected.append(five.decode(model.token_logits(canvas)[0, e.answer_start].argmax()))
    assert decode_answers(model, examples) == expected


def test_several_masks_before_a_suffix_commit_by_confidence(tiny_for, five) -> None:
    """A phrase of two words and what follows it: the surer of the two masks commits first."""
    pairs = [TextPair("Emma fed the", f" red {w}", "Emma ate the", " blue plum", " blue plum", "", (), s, s) for w, s in ENDS]
    examples = Examples("phrases", tuple(encode_pair(five, pair) for pair in pairs), five)
    model = tiny_for(five)["mdm"]
    for e, order in zip(examples, commit_orders(model, examples, "confidence", 0, 8192), strict=True):
        canvas = torch.tensor([[*e.clean[: e.answer_start], *[five.mask_token_id] * 2, *e.suffix, five.eos_token_id]])
        sure = model.token_logits(canvas)[0, e.answer_start : e.answer_start + 2].softmax(-1).amax(-1)
        assert order == sure.argsort(descending=True).tolist()


ENDS = [
    ("lobster", " that was as red as blood."),
    ("tiger", "."),
    ("swan", " and it was white like snow."),
    ("whale", " that looked blue."),
]


def test_examples_keep_their_suffix_in_a_file(tmp_path, five) -> None:
    examples = SemanticInfilling().examples(five, 5)
    examples.save(tmp_path / "x.json")
    assert Examples.load(tmp_path / "x.json").rows == examples.rows


def test_an_unknown_corruption_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown corruption 'both'; choose one of left, right, either"):
        SemanticInfilling(corruption=cast(Any, "both"))
