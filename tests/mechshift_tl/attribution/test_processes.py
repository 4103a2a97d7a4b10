"""One attribution in several real processes: the numbers of one, and errors that end all of them."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.runs.processes import Processes, ProcessFailed, alone


@pytest.fixture(scope="module")
def model(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native())


def assert_equal(one: EdgeScores, other: EdgeScores) -> None:
    assert (one.steps, one.n_read, one.n_examples) == (other.steps, other.n_read, other.n_examples)
    assert (one.clean, one.corrupt) == pytest.approx((other.clean, other.corrupt), abs=1e-6)
    for name in ("matrix", "per_step", "per_example", "ends_per_example", "read_per_example", "per_span"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("count", "keep"), [(2, True), (3, False), (5, True)])
def test_processes_add_up_to_one(model, rows, tmp_path, launched, count, keep) -> None:
    """Four examples: five processes leave one without any."""

    def work() -> None:
        attribute(model, rows, keep_per_example=keep, batch_tokens=8).save(tmp_path / os.environ["RANK"])

    assert launched(count, work) == [0] * count
    alone = attribute(model, rows, keep_per_example=keep, batch_tokens=8)
    found = [EdgeScores.load(tmp_path / str(rank)) for rank in range(count)]
    for scores in found:
        assert_equal(scores, alone)
    assert len({(tmp_path / str(rank)).read_bytes() for rank in range(count)}) == 1


def test_each_process_has_its_journal(model, rows, tmp_path, launched) -> None:
    def work() -> None:
        attribute(model, rows, batch_tokens=8, journal=tmp_path / "journal").save(tmp_path / os.environ["RANK"])

    assert launched(2, work) == [0, 0]
    first = (tmp_path / "0").read_bytes()
    assert sorted(p.name for p in (tmp_path / "journal").iterdir()) == ["0-of-2", "1-of-2"]
    (tmp_path / "journal" / "1-of-2" / "000001.safetensors").unlink()
    assert launched(2, work) == [0, 0]
    assert (tmp_path / "0").read_bytes() == first
    with pytest.raises(ValueError, match="begun by 2 processes, not 1"):
        attribute(model, rows, batch_tokens=8, journal=tmp_path / "journal")


def test_an_error_in_one_ends_all_at_once(model, rows, tmp_path, launched, monkeypatch) -> None:
    def broken(logits: Any, answers: Any, foils: Any) -> Any:
        values = logits[..., 0].mean(1)
        return values * float("nan") if os.environ["RANK"] == "1" else values

    def work() -> None:
        try:
            attribute(model, rows, metric=broken, batch_tokens=8)
        except ProcessFailed as error:
            (tmp_path / os.environ["RANK"]).write_text(f"{error} // {type(error.__cause__).__name__}")

    assert launched(2, work) == [0, 0]
    said = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert all(text.startswith("process 1 of 2: FloatingPointError: metric 'broken' is not finite") for text in said)
    assert [text.rpartition(" // ")[2] for text in said] == ["NoneType", "FloatingPointError"]


def test_different_work_is_refused_and_alone_it_is_not(model, rows, tmp_path, launched) -> None:
    def work() -> None:
        mine = rows if os.environ["RANK"] == "0" else rows.select([0, 1])
        try:
            attribute(model, mine)
        except ValueError as error:
            (tmp_path / os.environ["RANK"]).write_text(str(error))
        with alone():
            assert Processes.here() == Processes(0, 1)
            assert attribute(model, mine).n_examples == mine.n_examples
        assert Processes.here().count == 2

    assert launched(2, work) == [0, 0]
    assert all("different work" in (tmp_path / str(rank)).read_text() for rank in range(2))


def test_what_a_team_does(launched, tmp_path) -> None:
    def work() -> None:
        processes = Processes.here()
        assert [list(Processes(rank, 3).share(7)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
        assert processes.agree(processes.rank) == 0 and processes.gather(processes.rank) == [0, 1, 2] and processes.device is None
        processes.once(lambda: (tmp_path / str(processes.rank)).write_text("x"))
        assert list(processes.in_step(iter(range(processes.rank)))) == list(range(processes.rank))
        table = torch.full((5, 2), float(processes.rank), dtype=torch.float64)
        assert processes.add_up(table) is table and (table == 3).all()

    assert launched(3, work) == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
