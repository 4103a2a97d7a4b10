"""A task without some of its prompts, and examples that are kept."""

from __future__ import annotations

import pytest

from mechshift_tl.tasks import IOI, Countdown, Examples
from mechshift_tl.tasks.excluding import Excluding


@pytest.mark.parametrize("task", [IOI(), Countdown(largest=30)])
def test_prompts_that_were_used_are_left_out_and_counted(words, task) -> None:
    used = task.examples(words, 6, 0)
    apart = Excluding(task, {one.pair.prompt for one in used}, "used")
    further = apart.examples(words, 5, 0)
    assert further.rows == task.examples(words, 11, 0).rows[6:] and further.dropped["used"] == 6
    assert further.task == task.name and apart.capacity("held_out") == task.capacity("held_out")
    assert all(apart.solved(one, one.pair.answer) for one in further)


def test_too_few_others_is_said(words) -> None:
    rows = IOI(rows=tuple(one.pair for one in IOI().examples(words, 4, 0)))
    apart = Excluding(rows, {one.pair.prompt for one in rows.examples(words, 3, 0)}, "used")
    assert len(apart.examples(words, None, 0)) == 1
    with pytest.raises(ValueError, match="can make 1 held_out examples.*dropped 3: used"):
        apart.examples(words, 2, 0)


@pytest.mark.parametrize("task", [IOI(), Countdown(largest=30)])
def test_examples_are_kept(words, task, tmp_path) -> None:
    examples = task.examples(words, 5, 3)
    examples.save(tmp_path / "examples.json")
    assert Examples.load(tmp_path / "examples.json") == examples
    assert Examples.load(tmp_path / "examples.json", words).tokenizer is words
    (tmp_path / "other.json").write_text('{"task": "ioi"}')
    with pytest.raises(ValueError, match="other.json is damaged: rows is missing, .*; give a file written by Examples.save"):
        Examples.load(tmp_path / "other.json")
