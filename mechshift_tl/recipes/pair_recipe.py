"""What a pair recipe is: stages in an order, each of which can be killed and goes on, and an export of what they made."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

Say = Callable[[str], None]


class PairRecipe(ABC):
    """The stages of a pair's training. Their states lie in `work`, a folder per stage; a stage that has ended is not run again."""

    name: ClassVar[str]
    #: In an order in which they can be run. Those of MDM and control do not need each other.
    stages: ClassVar[tuple[str, ...]]

    @abstractmethod
    def run(self, stage: str, work: Path, say: Say = print) -> None:
        """Run a stage, or what is left of it; `say` gets a line now and then. Raises ValueError where an earlier stage has not ended."""

    @abstractmethod
    def export(self, work: Path, out: Path) -> None:
        """Write the pair's folder, as `load_pair` takes it. Raises ValueError where a stage has not ended."""

    def remake(self, work: Path, out: Path, say: Say = print) -> None:
        """All stages, then the export."""
        for stage in self.stages:
            say(f"stage {stage}")
            self.run(stage, work, say)
        self.export(work, out)

    def check(self, stage: str) -> None:
        """Raise ValueError on a stage that is none of this recipe's."""
        if stage not in self.stages:
            raise ValueError(f"pair recipe {self.name!r} has no stage {stage!r}; choose {', '.join(self.stages)}")

    def main(self, text: str | None, out: Path) -> None:
        """A command line: a stage or `export`, `--work` and `--out`."""
        import torch

        parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("stage", choices=[*self.stages, "export"])
        parser.add_argument("--work", type=Path, default=Path(f"runs/{self.name}_pair"), help="folder of the stages' states")
        parser.add_argument("--out", type=Path, default=out, help="where export writes")
        args = parser.parse_args()
        # One thread: the stages of MDM and control run side by side.
        torch.set_num_threads(1)
        if args.stage == "export":
            self.export(args.work, args.out)
        else:
            self.run(args.stage, args.work, lambda line: print(line, flush=True))
