"""Attributions made by hand: a graph, and the score of each edge; how much of a model runs; and processes that share a job."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch import Tensor, nn
from tqdm.auto import tqdm

from mechshift_tl.attribution import EdgeScores
from mechshift_tl.graph import Graph


@pytest.fixture(scope="session")
def scored() -> Callable[..., EdgeScores]:
    """`scored(graph, {("input", "m0"): 1.0}, **fields)`, or a matrix; a three-dimensional one is per example, one position read in each."""

    def make(graph: Graph, scores: Mapping[tuple[str, str], float] | Tensor, **fields: object) -> EdgeScores:
        if not isinstance(scores, Tensor):
            matrix = torch.zeros(graph.possible.shape)
            for (writer, reader), score in scores.items():
                matrix[graph.writers.index(writer), graph.readers.index(reader)] = score
            scores = matrix
        parts: dict = {"n_examples": 1}
        if scores.ndim == 3:
            n = len(scores)
            ones = torch.ones(n, dtype=torch.long)
            parts = {"n_examples": n, "per_example": scores, "ends_per_example": torch.ones(2, n), "read_per_example": ones}
            scores = scores.mean(0)
        return EdgeScores(
            matrix=scores, graph=graph, per_step=scores[None], steps=[0], n_read=[1], clean=1.0, corrupt=0.0, **(parts | fields)
        )

    return make


@pytest.fixture(scope="session")
def counting() -> Callable[..., AbstractContextManager[None]]:
    """`counting(module, tokens)`: inside, `tokens` gets how many tokens the module is run on, call by call."""

    @contextmanager
    def count(module: nn.Module, tokens: list[int]) -> Iterator[None]:
        handle = module.register_forward_hook(lambda module, inputs, output: tokens.append(inputs[0][..., 0].numel()))
        try:
            yield
        finally:
            handle.remove()

    return count


@pytest.fixture(scope="session")
def watched() -> Callable[[Any], AbstractContextManager[Any]]:
    """`watched(model)`: inside, somebody has a hook on it, which changes nothing."""
    return lambda model: model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda tensor, hook: None)])


@pytest.fixture(scope="session")
def forked() -> Callable[..., Any]:
    """`forked(work)`: a real process, started, that runs `work()`; to be killed or joined."""
    return _fork


@pytest.fixture
def launched() -> Callable[..., list[int | None]]:
    """`launched(count, work)`: exit codes of `count` real processes that gloo can join, each running `work()`."""

    def launch(count: int, work: Callable[[], None], *, timeout: float = 120) -> list[int | None]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [_fork(work, _launched_as(rank, count, port)) for rank in range(count)]
        for process in processes:
            process.join(timeout)
            process.kill()
            process.join()
        return [process.exitcode for process in processes]

    return launch


def _launched_as(rank: int, count: int, port: int) -> dict[str, str]:
    """What `torchrun` tells each process."""
    ranks, counts = ("RANK", "LOCAL_RANK"), ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
    return dict.fromkeys(ranks, str(rank)) | dict.fromkeys(counts, str(count)) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _fork(work: Callable[[], None], environment: Mapping[str, str] | None = None) -> Any:
    """A fork imports nothing anew; what it cannot share with its parent is made afresh."""

    def run() -> None:
        torch.set_num_threads(1)  # its pool of threads was not forked
        tqdm.set_lock(threading.RLock())  # a lock between processes stays taken when its holder is killed
        PartialState._reset_state()
        os.environ |= {"OMP_NUM_THREADS": "1", **(environment or {})}
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process
