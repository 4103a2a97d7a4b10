"""Attributions made by hand, rows of many shapes, a study of tiny models, how much of a model runs, and processes that share a job."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch import Tensor, nn
from tqdm.auto import tqdm

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.attribution import EdgeScores, attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.compare import compare
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import ABSENT, Readouts, readouts
from mechshift_tl.readouts.pool import Pool
from mechshift_tl.study import Study, StudyConfig, TaskStudy
from mechshift_tl.tasks.examples import Example, Examples, TextPair
from mechshift_tl.tasks.task import Split, Task
from mechshift_tl.views import component_lens, neuron_activations

HOSTILE = "<script>alert('{}')</script>"
EDGES = 40
MASKED = DiffusionSpec("full", mask_token_id=2)


class Echo(Task):
    """`w4 w9` → ` w4 w9`: two answer tokens, so two steps; groups are hostile markup."""

    name = HOSTILE.format("task")

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        while True:
            a, b, c, d = rng.sample(range(4, 48), 4)
            group = HOSTILE.format("odd" if a % 2 else "even")
            yield TextPair(f"w{a} w{b}", f" w{a} w{b}", f"w{c} w{d}", f" w{c} w{d}", f" w{c} w{d}", group)

    def solved(self, example: Example, decoded: str) -> bool:
        return decoded == example.pair.answer


@pytest.fixture(scope="module")
def rows() -> Readouts:
    """Four examples in two steps: eight rows of 6 to 8 tokens out of 48, read at one or two positions each."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(3, 48, (2, 8, 8), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 8, 2), generator=generator)
    lengths = torch.tensor([8, 6, 7, 8, 8, 6, 7, 8])
    targets = torch.stack([lengths - 1, torch.full((8,), 4)], 1)
    beyond = torch.arange(8) >= lengths[:, None]
    unread = torch.tensor([[False, single] for single in (False, True, True, False, True, True, False, False)])
    return Readouts(
        clean=clean.masked_fill(beyond, ABSENT),
        corrupt=corrupt.masked_fill(beyond, ABSENT),
        target_pos=targets.masked_fill(unread, ABSENT),
        answer_ids=answers.masked_fill(unread, ABSENT),
        foil_ids=foils.masked_fill(unread, ABSENT),
        step=torch.tensor([0, 0, 0, 0, 2, 2, 2, 2]),
        example=torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]),
        groups=("x", "y", "x", "y"),
        info={"task": "random"},
    )


@pytest.fixture(scope="session")
def scored() -> Callable[..., EdgeScores]:
    """`scored(graph, {("input", "m0"): 1.0}, **fields)`, or a matrix; a three-dimensional one is per example, one position read in each."""

    def make(graph: Graph, scores: Mapping[tuple[str, str], float] | Tensor, **fields: Any) -> EdgeScores:
        if not isinstance(scores, Tensor):
            matrix = torch.zeros(graph.possible.shape)
            for (writer, reader), score in scores.items():
                matrix[graph.writers.index(writer), graph.readers.index(reader)] = score
            scores = matrix
        parts: dict[str, Any] = {"n_examples": 1}
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
        forward = module.forward  # in its place, for a hook would be somebody's hook on the model

        def counted(inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
            tokens.append(inputs[..., 0].numel())
            return forward(inputs, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "forward", counted)
            yield

    return count


@pytest.fixture(scope="session")
def models(native: Callable[..., Any]) -> dict[str, HookedDiffusionTransformer]:
    specs = {"arm": DiffusionSpec(), "mdm": MASKED, "control": DiffusionSpec()}
    return {
        role: HookedDiffusionTransformer.from_hf(native(seed=seed), spec=spec, name=f"{role}{HOSTILE.format('model')}")
        for seed, (role, spec) in enumerate(specs.items())
    }


@pytest.fixture(scope="session")
def echo_task() -> Task:
    return Echo()


@pytest.fixture(scope="session")
def task_study(models: dict[str, HookedDiffusionTransformer], word_tokenizer: Any) -> TaskStudy:
    examples = Echo().examples(word_tokenizer, 12)
    rows = tuple(replace(e, pair=replace(e.pair, prompt=HOSTILE.format("prompt"))) for e in examples)
    examples = Examples(examples.task, rows, word_tokenizer, {HOSTILE.format("reason"): 3})
    made = {role: readouts(model, examples) for role, model in models.items()}
    scores = {role: attribute(model, made[role], ig_steps=2, keep_per_example=True) for role, model in models.items()}
    return TaskStudy(
        task=Echo.name,
        pool=Pool(Echo.name, examples, made, 20, dict.fromkeys(models, 0.625), dict.fromkeys(models, 0.25)),
        scores=scores,
        circuits={role: Circuit.from_scores(one, EDGES) for role, one in scores.items()},
        comparisons={role: compare(scores["arm"], scores[role], n=EDGES, n_boot=8, n_random=8) for role in ("mdm", "control")},
        lenses={role: component_lens(model, made[role], tokenizer=word_tokenizer) for role, model in models.items()},
        neurons={role: neuron_activations(model, made[role], 0, shuffles=20) for role, model in models.items()},
    )


@pytest.fixture(scope="session")
def study(models: dict[str, HookedDiffusionTransformer], task_study: TaskStudy) -> Study:
    provenance = {
        "models": {role: model.source for role, model in models.items()},
        "specs": {role: model.spec.to_dict() for role, model in models.items()},
        "edges": task_study.scores["arm"].graph.n_edges,
    }
    return Study(HOSTILE.format("pair"), StudyConfig(n=12), {Echo.name: task_study}, provenance)


@pytest.fixture(scope="session")
def without_control(study: Study, task_study: TaskStudy) -> Study:
    """The study as it is for a pair without a control, and with no draws behind intervals."""
    keyed = ("scores", "circuits", "lenses", "neurons")
    left = {name: {role: one for role, one in getattr(task_study, name).items() if role != "control"} for name in keyed}
    pool = replace(task_study.pool, readouts={role: one for role, one in task_study.pool.readouts.items() if role != "control"})
    scores = task_study.scores
    comparisons = {"mdm": compare(scores["arm"], scores["mdm"], n=EDGES, n_boot=0, n_random=8)}
    provenance = study.provenance | {"models": {role: source for role, source in study.provenance["models"].items() if role != "control"}}
    return replace(
        study, tasks={"echo": replace(task_study, task="echo", pool=pool, comparisons=comparisons, **left)}, provenance=provenance
    )


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
