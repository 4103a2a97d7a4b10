"""Kinds that rows read, against the texts of Countdown's answers; parts of pools by rows."""

from __future__ import annotations

import pytest

from hooked_diffusion import load_pair
from mechshift_tl.readouts import readouts
from mechshift_tl.readouts.kinds import row_kinds
from mechshift_tl.readouts.pool import Pool
from mechshift_tl.tasks import IOI, Countdown


@pytest.fixture(scope="module")
def pair():
    return load_pair("tiny")


def test_a_rows_kind_is_that_of_the_text_it_reads(pair):
    task = Countdown()
    examples = task.examples(pair.tokenizer, 12)
    rows = readouts(pair.arm, examples)
    kinds = row_kinds(rows, examples, task, pair.tokenizer)
    assert {"first operand", "operand", "result", "target"} <= set(kinds)
    for kind, example, position in zip(kinds, rows.example.tolist(), rows.target_pos[:, 0].tolist(), strict=True):
        read, answer = pair.tokenizer.decode([examples[example].clean[position]]).strip(), examples[example].pair.answer
        at = position - examples[example].answer_start  # a token a field
        expected = {0: "first operand", 4: "result", 10: "target"}.get(at, "operand" if read.isdigit() else "operator")
        assert kind == expected and read in answer


def test_rows_that_read_several_kinds_and_tasks_without_fields_have_none(pair):
    task = Countdown()
    examples = task.examples(pair.tokenizer, 3)
    together = readouts(pair.arm, examples, tokens_per_step=99)
    assert set(row_kinds(together, examples, task, pair.tokenizer)) == {""}
    ioi = IOI().examples(pair.tokenizer, 3)
    assert set(row_kinds(readouts(pair.arm, ioi), ioi, IOI(), pair.tokenizer)) == {""}


def test_a_pool_within_rows_has_as_many_prompts_as_fit(pair):
    examples = Countdown().examples(pair.tokenizer, 6)
    pool = Pool("countdown", examples, {"arm": readouts(pair.arm, examples)}, 6, {}, {})
    sizes = [int((pool.readouts["arm"].example == i).sum()) for i in range(6)]
    assert len(pool.within(sum(sizes[:4]))) == 4 and len(pool.within(sum(sizes[:4]) - 1)) == 3
    assert len(pool.within(1)) == 2 and len(pool.within(10_000)) == 6
