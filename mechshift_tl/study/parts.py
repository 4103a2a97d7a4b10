"""What a study has of one task when its measurements begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from hooked_diffusion.model import HookedDiffusionTransformer
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.readouts.pool import Pool
from mechshift_tl.study.config import StudyConfig
from mechshift_tl.tasks.task import Task
from mechshift_tl.views.lens_table import ComponentLens


@dataclass(frozen=True, eq=False)
class TaskParts:
    """One task's parts; mappings are by role ("arm", "mdm", "control").

    - `pool`: the prompts that `scores`, `circuits` and `lenses` are of. `held_out`: other prompts, read correctly as well; None: none.
    - `progress`: is told what is measured next.
    - `shares`: the share of the possible edges at which the circuits of the ARM and of a role are both faithful
      (`evaluation.size`); a role without such a size is left out.
    """

    task: Task
    models: Mapping[str, HookedDiffusionTransformer]
    tokenizer: PreTrainedTokenizerBase
    config: StudyConfig
    pool: Pool
    held_out: Pool | None
    scores: Mapping[str, EdgeScores]
    circuits: Mapping[str, Circuit]
    lenses: Mapping[str, ComponentLens]
    progress: Callable[[str], None]
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name
