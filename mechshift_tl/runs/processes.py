"""One job shared by the processes that `accelerate launch` or `torchrun` started.

Each process takes every count-th example. Sums are added over processes at the end. All processes go from batch to batch together, so an
error in one ends all of them at once, with the same message. In an ordinary process nothing is shared and nothing waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, get_cpu_distributed_information, parse_flag_from_env, reduce
from torch import Tensor

T = TypeVar("T")
#: What is summed at once: bounds the memory of a device that joins the processes.
PIECE_BYTES = 64 * 2**20
#: What `accelerate launch` sets in the one process that it starts on CPUs when it is asked for several.
ASKED_FOR_SEVERAL = ("MASTER_ADDR", "ACCELERATE_USE_CPU", "ACCELERATE_DYNAMO_BACKEND")
_alone = False


class ProcessFailed(RuntimeError):
    """An error in one of the processes that share a job, raised in all of them; its cause is the error itself where it arose."""


@dataclass(frozen=True)
class Processes:
    """The processes that share a job: this one's `rank` in [0, `count`)."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Processes:
        """The processes that were launched together with this one; alone inside `alone()`.

        Raises RuntimeError where several were launched and accelerate has been set up for one; ValueError where several were asked for and
        one was launched.
        """
        launched = get_cpu_distributed_information().world_size
        if launched < 2 and all(name in os.environ for name in ASKED_FOR_SEVERAL):
            raise ValueError(
                "`accelerate launch --cpu` was asked for several processes and, without MPI, starts one; start them with "
                "`torchrun --nproc-per-node N -m -- …`, or `ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes N -m …`"
            )
        if _alone or launched < 2:
            return cls()
        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
        if state.num_processes != launched:
            raise RuntimeError(
                f"this is one of {launched} processes, but accelerate joins {state.num_processes} (is there a backend for its device?); "
                "set ACCELERATE_USE_CPU=1, or give PartialState or Accelerator cpu=True"
            )
        return cls(state.process_index, launched)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device | None:
        """This process's own accelerator; None for the CPU, and for a process alone."""
        device = None if self.count == 1 else PartialState().device
        return None if device is None or device.type == "cpu" else device

    def part(self) -> None:
        """End what joins the processes, when the job is done."""
        if self.count > 1:
            PartialState().destroy_process_group()

    def share(self, n: int) -> range:
        """This process's examples of `n`."""
        # Every count-th, not one block each: whatever order the examples come in, each process gets some of every part.
        return range(self.rank, n, self.count)

    def in_step(self, work: Iterator[T]) -> Iterator[T]:
        """Yield what `work` yields here, one piece at a time, while every other process does a piece of its own.

        Raises ProcessFailed in all processes when one of them fails; alone, the error itself.
        """
        if self.count == 1:
            yield from work
            return
        while True:
            piece, error = None, None
            try:
                piece = [next(work)]
            except StopIteration:
                pass
            except Exception as caught:
                error = caught
            # Every round, also when this process has nothing left: the others wait for its answer.
            said = gather_object([(piece is not None, error and f"{type(error).__name__}: {error}")])
            for rank, (_, message) in enumerate(said):
                if message:
                    raise ProcessFailed(f"process {rank} of {self.count}: {message}") from error
            if piece is not None:
                yield piece[0]
            # A process may end only when none has work left, or the others would wait for it for ever.
            elif not any(more for more, _ in said):
                return

    def once(self, action: Callable[[], object]) -> None:
        """Call `action` in the first process, while the others wait."""
        # Through `in_step`, so that an error of the first process ends the others, too.
        for _ in self.in_step(action() for _ in range(1) if self.is_first):
            pass

    def agree(self, value: T) -> T:
        """The first process's value."""
        return value if self.count == 1 else broadcast_object_list([value])[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value."""
        return [value] if self.count == 1 else gather_object([value])

    def add_up(self, tensor: Tensor) -> Tensor:
        """`tensor`, on the CPU, summed over processes in place; exact where all but one hold zeros."""
        if self.count > 1:
            # NCCL adds on accelerators alone, so the tensor goes there and back in pieces.
            device, rows = PartialState().device, max(1, PIECE_BYTES // max(1, tensor[:1].nbytes))
            for piece in tensor.split(rows):
                piece.copy_(cast(Tensor, reduce(piece.to(device), "sum")))
        return tensor


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works alone. Use it around code that not every process executes."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before
