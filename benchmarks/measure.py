"""Time and memory of a callable, measured so that two of them can be compared.

- Time: processor seconds of this process, which on one thread are the wall clock's less what other programs took. Every variant runs once
  to warm up, then all run in turns, so that a slow spell of the machine falls on each of them. The minimum is what the work costs; the
  median says how much the machine disturbed it.
- Memory: the peak of what PyTorch's CPU allocator hands out during one call, above what was held before it, from the profiler's record of
  every allocation and release. It repeats to the byte. Peak resident memory does not: glibc keeps freed pages, and what an earlier variant
  freed, a later one gets without the peak moving.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch.profiler import ProfilerActivity, profile

# The profiler's library announces every start and stop on stderr.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

MIB = 2**20
Variants = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Cost:
    """Seconds of every timed run, and bytes of peak memory above the model and its inputs."""

    seconds: tuple[float, ...]
    peak_bytes: int

    @property
    def least(self) -> float:
        """Seconds of the fastest run."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """Median of the runs' seconds."""
        return median(self.seconds)

    @property
    def mib(self) -> float:
        """Peak memory in MiB."""
        return self.peak_bytes / MIB


def costs(variants: Variants, repeats: int, patience: float = 30.0) -> dict[str, Cost]:
    """Cost of each variant: one profiled run, which also warms it up, then timed runs in turns.

    A variant rests after `repeats` runs, or after the run that brings it past `patience` seconds in all.
    """
    peaks = {name: peak_bytes(run) for name, run in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            if not seconds[name] or sum(seconds[name]) < patience:
                seconds[name].append(timed(run))
    return {name: Cost(tuple(seconds[name]), peaks[name]) for name in variants}


def timed(run: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_bytes(run: Callable[[], Any]) -> int:
    """Peak of the CPU memory that PyTorch allocated during one call and had not yet released."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    results: Any = record.profiler.kineto_results if record.profiler else None
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
