"""The pool keeps what both models read correctly, counts what was tried, and says so when a task runs out."""

from __future__ import annotations

import pytest
import torch

from hooked_diffusion import load_pair
from mechshift_tl.readouts import readouts
from mechshift_tl.readouts.pool import Pool, common_correct, read_correctly
from mechshift_tl.tasks import IOI, Countdown
from mechshift_tl.tasks.task import ExampleStream


@pytest.fixture(scope="module")
def pair():
    return load_pair("tiny")


def test_every_kept_example_is_read_correctly_by_both(pair):
    pool = common_correct(pair.models, Countdown(), 12, seed=3)
    assert len(pool) == 12 <= pool.tried
    for role in ("arm", "mdm"):
        assert read_correctly(pair.models[role], pool.readouts[role]).all()
        assert 0.5 < pool.read_correctly[role] <= 1 and 0.5 < pool.decoded_correctly[role] <= 1


def test_arm_and_mdm_read_the_same_positions(pair):
    pool = common_correct(pair.models, Countdown(), 6)
    columns = ["example", "position", "answer_id", "foil_id"]
    arm, mdm = (pool.readouts[role].to_dataframe().sort_values(columns, ignore_index=True)[columns] for role in ("arm", "mdm"))
    assert arm.equals(mdm)


def test_readouts_match_the_kept_examples(pair):
    pool = common_correct(pair.models, IOI(), 8)
    again = readouts(pair.arm, pool.examples)
    assert (again.clean == pool.readouts["arm"].clean).all() and pool.readouts["arm"].groups == again.groups


def test_a_task_that_runs_out_says_how_many_there_are(pair):
    with pytest.raises(ValueError, match=r"countdown.*can make \d+ held-out examples"):
        common_correct(pair.models, Countdown(largest=6), 5000)


def test_what_was_read_is_not_read_again_when_more_are_tried(pair, monkeypatch):
    """12 of the first 18 prompts are said to be read wrongly, so 36 are tried; what is kept is as if all had been read at once."""
    task, read = Countdown(), []

    def reading(model, examples, **settings):
        read.append([example.pair.prompt for example in examples])
        return readouts(model, examples, **settings)

    monkeypatch.setattr("mechshift_tl.readouts.pool.readouts", reading)
    real = read_correctly
    hidden = {example.pair.prompt for example in task.examples(pair.tokenizer, 12)}
    monkeypatch.setattr(
        "mechshift_tl.readouts.pool.read_correctly",
        lambda model, made, **settings: real(model, made, **settings) & torch.tensor([prompt not in hidden for prompt in read[-1]]),
    )
    pool = common_correct({"arm": pair.arm, "mdm": pair.mdm}, task, 9, tokenizer=pair.tokenizer)
    assert pool.tried == 36 and [len(prompts) for prompts in read] == [18, 18, 18, 18]
    assert read[0] == read[1] and read[2] == read[3] and not set(read[0]) & set(read[2])
    whole = task.examples(pair.tokenizer, 36)
    assert [prompt for part in read[::2] for prompt in part] == [example.pair.prompt for example in whole]
    assert not hidden & {example.pair.prompt for example in pool.examples}
    places = [[e.pair.prompt for e in whole].index(e.pair.prompt) for e in pool.examples]
    for role, model in (("arm", pair.arm), ("mdm", pair.mdm)):
        once, made = readouts(model, whole).select(places), pool.readouts[role]
        assert made.info == once.info and made.groups == once.groups
        assert all(torch.equal(tensor, once.tensors()[name]) for name, tensor in made.tensors().items())


def test_a_stream_draws_every_example_once(pair):
    stream = ExampleStream(Countdown(), pair.tokenizer, seed=3)
    first = stream.up_to(5)
    drawn = []
    stream._pairs = (drawn.append(pair) or pair for pair in stream._pairs)
    assert stream.exactly(12) == Countdown().examples(pair.tokenizer, 12, seed=3) and stream.exactly(12)[:5].rows == first.rows
    assert len(drawn) >= 7 and not {pair.prompt for pair in drawn} & {example.pair.prompt for example in first}


def test_a_saved_pool_makes_its_folder(pair, tmp_path):
    pool = common_correct(pair.models, IOI(), 4)
    pool.save(tmp_path / "new" / "pool")
    assert Pool.load(tmp_path / "new" / "pool").examples == pool.examples
