"""`Trajectory`: every statistic over training, what changed when, and what moved first."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion import artefact
from hooked_diffusion.html import card
from mechshift_tl.compare.change_point import ChangePoint, change_point
from mechshift_tl.compare.moves_first import MovesFirst, moves_first
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.study import files
from mechshift_tl.study.config import StudyConfig
from mechshift_tl.study.trajectory.figure import draw_trajectory
from mechshift_tl.study.trajectory.point import TrajectoryPoint
from mechshift_tl.study.verdicts import DOES_TASK

TRAJECTORY, TABLE, CHANGES = "trajectory.json", "table.csv", "changes.csv"
#: Whose change-points are found, by the name that a sentence uses.
MOVERS = {"overlap": "edge_overlap", "depth": "early_share", "accuracy": "accuracy"}


def point_file(role: str, step: int) -> str:
    """The file of a point, in the folder of its task."""
    return f"{role}-{step}.point.safetensors"


@dataclass(frozen=True)
class Series:
    """One statistic of one role over training, first checkpoint first: tokens, values, and draws `(n_boot, checkpoints)`."""

    tokens: list[int]
    values: list[float]
    draws: Float[Tensor, "n_boot checkpoints"] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A study at every checkpoint: `points` of the ARM ("arm", one per task), the MDM and maybe the control. `arm`: which ARM it was."""

    arm: str
    config: StudyConfig
    points: tuple[TrajectoryPoint, ...] = field(repr=False)

    @property
    def tasks(self) -> list[str]:
        """The tasks, in their order."""
        return list({one.task: None for one in self.points})

    @property
    def roles(self) -> list[str]:
        """The roles that were trained: "mdm", "control"."""
        return list({one.role: None for one in self.points if one.role != "arm"})

    def of(self, task: str, role: str) -> list[TrajectoryPoint]:
        """The points of a task and role, first step first."""
        return sorted((one for one in self.points if (one.task, one.role) == (task, role)), key=lambda one: one.step)

    def series(self, task: str, role: str, statistic: str) -> Series:
        """A statistic of `point.LABELS` over training; NaN where it has no meaning. Raises ValueError without such a task or role."""
        points = self.of(task, role)
        if not points:
            raise ValueError(f"the trajectory holds no {role!r} of {task!r}; it has {', '.join(self.roles)} of {', '.join(self.tasks)}")
        values, draws = zip(*(one.of(statistic) for one in points), strict=True)
        return Series([one.tokens for one in points], list(values), torch.stack(draws, 1))

    @cached_property
    def changes(self) -> dict[tuple[str, str], list[ChangePoint]]:
        """By task and role: how overlap, depth and accuracy changed."""
        return {(task, role): [self._change(task, role, name) for name in MOVERS] for task in self.tasks for role in self.roles}

    @cached_property
    def order(self) -> dict[tuple[str, str], MovesFirst]:
        """By task and role: which of them moves first."""
        return {key: moves_first(found) for key, found in self.changes.items()}

    def _change(self, task: str, role: str, name: str) -> ChangePoint:
        one = self.series(task, role, MOVERS[name])
        return change_point(name, one.tokens, one.values, one.draws, seed=self.config.seed)

    def findings(self) -> list[str]:
        """One paragraph per task and role."""
        return [self._finding(task, role) for task in self.tasks for role in self.roles]

    def finding(self) -> str:
        """What changed abruptly, what gradually, what cannot be told, and what moved first, for every task and role."""
        return "\n".join(self.findings())

    def _finding(self, task: str, role: str) -> str:
        said = " ".join(one.finding() for one in self.changes[task, role])
        points = self.of(task, role)
        idle = [one.step for one in points if not one.of("accuracy")[0] >= DOES_TASK]
        note = f" After {', '.join(map(str, idle))} steps it reads fewer than half of the prompts: there it has no circuit of the task."
        head = f"{task}, {ROLE_NAMES[role]} (n {points[0].n_scored}, {len(points)} checkpoints): "
        return f"{head}{said} {self.order[task, role].finding()}{note if idle else ''}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row per task, role, checkpoint and statistic: the columns of `TrajectoryPoint.to_dataframe`."""
        return pd.concat([one.to_dataframe() for one in self.points], ignore_index=True)

    def changes_table(self) -> pd.DataFrame:
        """One row per task, role and statistic: the columns of `ChangePoint.to_dataframe`, and what moves `first`."""
        rows = [
            one.to_dataframe().assign(task=task, role=role, first=self.order[task, role].first)
            for (task, role), found in self.changes.items()
            for one in found
        ]
        frame = pd.concat(rows, ignore_index=True)
        return frame.loc[:, ["task", "role", *(name for name in frame.columns if name not in ("task", "role"))]]

    def figure(self, task: str | None = None) -> go.Figure:
        """Every statistic of a task, by default the first, over training tokens: MDM and control side by side, the ARM as a line."""
        name = task or self.tasks[0]
        spans = {MOVERS[one.name]: (one.low, one.high) for one in self.changes[name, "mdm"] if one.changed}
        return draw_trajectory({role: self.of(name, role) for role in ("arm", *self.roles)}, spans)

    def save(self, folder: str | Path) -> None:
        """Write a file per point into a folder per task, and the tables."""
        for one in self.points:
            place = Path(folder) / files.folder_name(one.task)
            place.mkdir(parents=True, exist_ok=True)
            one.save(place / point_file(one.role, one.step))
        self.save_tables(Path(folder))

    def save_tables(self, folder: Path) -> None:
        """Write `trajectory.json`, `table.csv` and `changes.csv` alone."""
        self.to_dataframe().to_csv(folder / TABLE, index=False)
        self.changes_table().to_csv(folder / CHANGES, index=False)
        steps = {task: [[one.role, one.step] for one in of] for task, of in groupby(self._by_task(), key=lambda one: one.task)}
        artefact.write_json(folder / TRAJECTORY, {"arm": self.arm, "config": self.config.to_dict(), "steps": steps})

    def _by_task(self) -> list[TrajectoryPoint]:
        return [one for task in self.tasks for one in self.points if one.task == task]

    @classmethod
    def load(cls, folder: str | Path) -> Trajectory:
        """Read what `save` wrote. Raises ValueError, OSError on another folder."""
        folder = Path(folder)
        side = artefact.read_json(folder / TRAJECTORY, "Trajectory.save", "arm", "config", "steps")
        names = [(files.folder_name(task), point_file(role, step)) for task, points in side["steps"].items() for role, step in points]
        points = tuple(TrajectoryPoint.load(folder / task / name) for task, name in names)
        return cls(side["arm"], StudyConfig(**side["config"]), points)

    def _repr_html_(self) -> str:
        return card("Trajectory", self.finding(), self.changes_table())
