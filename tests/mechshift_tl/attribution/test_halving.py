"""Memory that really runs out: the address space of a process is limited, and PyTorch's allocator fails."""

from __future__ import annotations

import re
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.engine import Engine
from mechshift_tl.readouts import Readouts
from mechshift_tl.runs.out_of_memory import is_out_of_memory

MIB = 2**20


@contextmanager
def room(size: int) -> Iterator[None]:
    """`size` more bytes of address space than now, and no more."""
    status = Path("/proc/self/status").read_text()
    taken = re.search(r"VmSize:\s+(\d+) kB", status)
    assert taken
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1024 * int(taken[1]) + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def random_rows(n: int, length: int) -> Readouts:
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(3, 48, (2, n, length), generator=generator)
    answers, foils = torch.randint(3, 48, (2, n), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.full((n,), length - 1), answers, foils)


@pytest.fixture(scope="module")
def model(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(max_position_embeddings=4096))


@pytest.mark.parametrize("keep", [False, True])
def test_batches_are_halved_until_they_fit(model, tmp_path, forked, keep) -> None:
    rows = random_rows(64, 256)  # one tensor of their attention is larger than the room, whatever the heap has free

    def work() -> None:
        attribute(model, rows.select([0]))
        with room(60 * MIB), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            attribute(model, rows, batch_tokens=10**6, keep_per_example=keep).save(tmp_path / "halved")
        attribute(model, rows, batch_tokens=10**6, keep_per_example=keep).save(tmp_path / "whole")
        (tmp_path / "said").write_text("\n".join(str(one.message) for one in said))

    process = forked(work)
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "said").read_text().startswith("out of memory on 64 rows; going on with 32 at a time")
    halved, whole = (EdgeScores.load(tmp_path / name) for name in ("halved", "whole"))
    assert (halved.matrix - whole.matrix).abs().max() <= 1e-4 * whole.matrix.abs().max()
    assert (halved.clean, halved.corrupt) == pytest.approx((whole.clean, whole.corrupt), rel=1e-5)
    if halved.per_example is not None and whole.per_example is not None:
        assert (halved.per_example - whole.per_example).abs().max() <= 1e-4 * whole.per_example.abs().max()


def test_a_row_that_does_not_fit_is_one_sentence(model, tmp_path, forked) -> None:
    def work() -> None:
        attribute(model, random_rows(1, 96))
        with room(60 * MIB), pytest.raises(MemoryError) as error:
            attribute(model, random_rows(1, 3000))
        (tmp_path / "said").write_text(str(error.value))

    process = forked(work)
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "said").read_text() == "out of memory on a single row of 3000 tokens; take shorter prompts, or free memory"


def test_out_of_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match")) and not is_out_of_memory(ValueError("not enough memory"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)


def test_other_errors_are_not_hidden(model, monkeypatch) -> None:
    monkeypatch.setattr(Engine, "parts", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        attribute(model, random_rows(4, 8))
