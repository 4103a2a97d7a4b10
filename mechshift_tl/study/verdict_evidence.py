"""What the verdicts of `study.verdicts` rest on, of one task and one model beside the ARM. `study.gathering` measures it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mechshift_tl.circuits.permuted import OverlapNull
from mechshift_tl.evaluation.carried import Carried
from mechshift_tl.evaluation.size import FaithfulSize, SizeSearch
from mechshift_tl.study import files
from mechshift_tl.study.gains import Gain
from mechshift_tl.study.likeness import Likeness


@dataclass(frozen=True)
class VerdictSettings:
    """How evidence is gathered.

    - `search`: of the circuits' size. `cut`: layers below it are early; None for the first third.
    - `n_boot`: draws of the prompts behind every p-value; `n_permutations`: of heads, behind that of an overlap. p is at least 1 over
      one more, so few draws leave nothing to claim once p-values are corrected.
    - `overlap_draws`: draws of the prompts behind an overlap's interval, 0 for none: each cuts both circuits anew.
    """

    search: SizeSearch = SizeSearch()
    cut: int | None = None
    n_boot: int = 10_000
    n_permutations: int = 2000
    overlap_draws: int = 200
    seed: int = 0


@dataclass(frozen=True, eq=False)
class VerdictEvidence:
    """Evidence on one model, whose role is `role`.

    - `likeness`: of the ARM and it. `size`: at which circuits were cut.
    - `carried`, `overlap`: of these circuits; None where there is no such size.
    - `early`, `spread`: what the model gained beyond the control and the ARM; None without a control. The control's own: beyond the ARM.
    """

    task: str
    role: str
    likeness: Likeness
    size: FaithfulSize
    carried: Carried | None
    overlap: OverlapNull | None
    early: Gain | None
    spread: Gain | None

    def save(self, folder: Path) -> None:
        """Write one file per part into a task's folder."""
        files.LIKENESS.save(folder, {self.role: self.likeness})
        files.SIZES.save(folder, {self.role: self.size})
        if self.carried is not None and self.overlap is not None:
            files.CARRIED.save(folder, {self.role: self.carried})
            files.OVERLAPS.save(folder, {self.role: self.overlap})
        if self.early is not None and self.spread is not None:
            files.EARLY.save(folder, {self.role: self.early})
            files.SPREAD.save(folder, {self.role: self.spread})

    @classmethod
    def load(cls, folder: Path, task: str, roles: Iterable[str]) -> tuple[VerdictEvidence, ...]:
        """What a task's folder holds of `roles`. Raises ValueError on a file that was changed, FileNotFoundError where one is missing."""
        likeness = files.LIKENESS.read_present(folder, roles)
        size = files.SIZES.read(folder, likeness)
        carried, overlaps = files.CARRIED.read_present(folder, likeness), files.OVERLAPS.read_present(folder, likeness)
        early, spread = files.EARLY.read_present(folder, likeness), files.SPREAD.read_present(folder, likeness)
        return tuple(
            cls(task, role, one, size[role], carried.get(role), overlaps.get(role), early.get(role), spread.get(role))
            for role, one in likeness.items()
        )
