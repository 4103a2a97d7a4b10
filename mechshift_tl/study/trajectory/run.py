"""The job: every task at every checkpoint of the MDM's and the control's training.

1. Per task, prompts are chosen once: those that the ARM and the last checkpoints read correctly. What was tried is kept for accuracy.
2. The ARM is scored once, and gives the size of all circuits: the smallest at which its own is faithful.
3. Every checkpoint is opened once, and all tasks are measured on it (`measure`).

Each point is a stage, kept as a file: a killed run goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hooked_diffusion.model import HookedDiffusionTransformer
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.circuits.select import default_n
from mechshift_tl.evaluation.run_once import CircuitRuns
from mechshift_tl.evaluation.size import FaithfulSize, faithful_size
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.readouts.pool import Pool, common_correct
from mechshift_tl.runs.provenance import identity, text_digest, versions
from mechshift_tl.runs.stages import Stages
from mechshift_tl.study import files
from mechshift_tl.study.config import StudyConfig
from mechshift_tl.study.trajectory.checkpoints import Checkpoint, TrainingRun, arm_source
from mechshift_tl.study.trajectory.measure import Ground
from mechshift_tl.study.trajectory.point import TrajectoryPoint
from mechshift_tl.study.trajectory.result import Trajectory, point_file
from mechshift_tl.tasks.task import ExampleStream, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What a trajectory asks for where nothing else is said: a study's settings, with fewer prompts at each of many checkpoints.
DEFAULTS = StudyConfig(n=40, held_out=24, n_boot=200, n_random=50, measurements="none")
Say = Callable[[str], None]


def run_trajectory(
    runs: Sequence[TrainingRun],
    tasks: Sequence[Task],
    config: StudyConfig | None = None,
    *,
    arm: str | None = None,
    folder: Path | None = None,
    progress: Say = lambda _: None,
) -> Trajectory:
    """Study `runs`, those of the MDM and maybe of the control, at each of their checkpoints.

    - `arm`: the checkpoint, or the bundled pair, whose ARM they started from; by default what their checkpoints say.
    - `config`: as of a study; what it says of verdicts and measurements is not used. `folder`: gets each result as it is made.

    Raises ValueError before any long work on runs without a common ARM, on tasks that repeat, on a setting that cannot be, and when
    `folder` is that of another trajectory.
    """
    config, name = config or DEFAULTS, arm or _common_arm(runs)
    _check(runs, tasks, config)
    started = [run.started_from(name) for run in runs]
    model = HookedDiffusionTransformer.from_pretrained(arm_source(name), dtype=torch.float32)
    if (tokenizer := model.tokenizer) is None:
        raise ValueError(f"the ARM {name} has no tokenizer, which prompts need; add its files to the checkpoint's folder")
    lasts = {run.role: run.last.open(tokenizer, dtype=torch.float32) for run in started}
    streams = {task.name: ExampleStream(task, tokenizer, config.seed) for task in tasks}
    stages = Stages(folder)
    if folder is not None:
        prompts = {task: text_digest(repr(stream.exactly(config.n + config.held_out).rows)) for task, stream in streams.items()}
        steps = {run.role: [(one.step, one.tokens) for one in run.checkpoints] for run in started}
        stages.claim({**config.to_dict(), **identity({"arm": model} | lasts), "prompts": prompts, "steps": steps, "versions": versions()})
    grounds = [_ground(task, streams[task.name], {"arm": model} | lasts, config, stages, progress) for task in tasks]
    points = [stages.of(files.folder_name(g.task.name)).result(point_file("arm", 0), TrajectoryPoint.load, g.arm_point) for g in grounds]
    for run in started:
        for one in run.checkpoints:
            site = _Site(run.role, one, tokenizer, lasts[run.role] if one is run.last else None)
            points += [site.point(ground, stages, progress) for ground in grounds]
    found = Trajectory(name, config, tuple(points))
    stages.write(found.save_tables)
    return found


def _common_arm(runs: Sequence[TrainingRun]) -> str:
    named = {run.arm for run in runs if run.arm}
    if len(named) != 1:
        said = f"started from {' and from '.join(sorted(named))}" if named else "do not say which ARM they started from"
        raise ValueError(f"run_trajectory: the runs {said}; give arm=")
    return named.pop()


def _check(runs: Sequence[TrainingRun], tasks: Sequence[Task], config: StudyConfig) -> None:
    roles, names = [run.role for run in runs], [task.name for task in tasks]
    if "mdm" not in roles or len(set(roles)) < len(roles):
        raise ValueError(f"run_trajectory: the runs are of {', '.join(roles) or 'nothing'}; give the mdm's, and maybe the control's")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"run_trajectory: tasks are {names}; name at least one, each once")
    if config.held_out < 2 or config.n_boot < 20:
        raise ValueError(
            f"run_trajectory: held_out is {config.held_out}, n_boot {config.n_boot}; give at least 2 prompts kept apart, and 20 draws"
        )


def _ground(
    task: Task, stream: ExampleStream, models: dict[str, HookedDiffusionTransformer], config: StudyConfig, stages: Stages, say: Say
) -> Ground:  # fmt: skip
    """Prompts, the ARM's scores and the size of circuits."""
    own = stages.of(files.folder_name(task.name))
    say(f"{task.name}: prompts that the ARM and the last checkpoints read correctly")
    found = common_correct(models, task, config.n + config.held_out, seed=config.seed, drawn=stream, stages=own, decode=False)
    pool, held_out = found.select(range(config.n)), found.select(range(config.n, len(found)))
    say(f"{task.name}: edge scores of the ARM, and the size of its circuit")
    journal = own.journal(files.SCORES.name("arm"))
    scores = files.SCORES.stage(
        own, "arm", partial(attribute_edges, models["arm"], pool.readouts["arm"], config.attribution, journal=journal)
    )
    size = own.result("arm.size.json", FaithfulSize.load, partial(_size, models["arm"], held_out, scores, config))
    fallback = (config.edges or default_n(scores.graph)) / scores.graph.n_edges
    return Ground(task, models["arm"], scores, size.share or fallback, pool, held_out, stream.up_to(found.tried), config)


def _size(arm: HookedDiffusionTransformer, held_out: Pool, scores: EdgeScores, config: StudyConfig) -> FaithfulSize:
    runs = CircuitRuns({"arm": arm}, {"arm": held_out.readouts["arm"]})
    return faithful_size(runs, {"arm": scores}, config.verdict.search, seed=config.seed)


@dataclass(frozen=True, eq=False)
class _Site:
    """A checkpoint, opened when a task is first measured on it."""

    role: str
    checkpoint: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    opened: HookedDiffusionTransformer | None

    @cached_property
    def model(self) -> HookedDiffusionTransformer:
        return self.opened or self.checkpoint.open(self.tokenizer, dtype=torch.float32)

    def point(self, ground: Ground, stages: Stages, say: Say) -> TrajectoryPoint:
        """One task, made once whatever happens to the job."""
        own, name = stages.of(files.folder_name(ground.task.name)), point_file(self.role, self.checkpoint.step)
        return own.result(name, TrajectoryPoint.load, lambda: self._measure(ground, own.journal(name), say))

    def _measure(self, ground: Ground, journal: Path | None, say: Say) -> TrajectoryPoint:
        say(f"{ground.task.name}: {ROLE_NAMES[self.role]} after {self.checkpoint.step} steps")
        return ground.point(self.role, self.checkpoint.step, self.checkpoint.tokens, self.model, journal)
