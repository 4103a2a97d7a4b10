"""The pool keeps what both models read correctly, counts what was tried, and says so when a task runs out."""

from __future__ import annotations

import pytest

from hooked_diffusion import load_pair
from mechshift_tl.readouts import readouts
from mechshift_tl.readouts.pool import common_correct, read_correctly
from mechshift_tl.tasks import IOI, Countdown


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
    arm, mdm = (pool.readouts[role].to_dataframe()[columns].sort_values(columns, ignore_index=True) for role in ("arm", "mdm"))
    assert arm.equals(mdm)


def test_readouts_match_the_kept_examples(pair):
    pool = common_correct(pair.models, IOI(), 8)
    again = readouts(pair.arm, pool.examples)
    assert (again.clean == pool.readouts["arm"].clean).all() and pool.readouts["arm"].groups == again.groups


def test_a_task_that_runs_out_says_how_many_there_are(pair):
    with pytest.raises(ValueError, match=r"countdown.*can make \d+ held-out examples"):
        common_correct(pair.models, Countdown(largest=6), 5000)
