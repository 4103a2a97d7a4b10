"""What a run measures, as lines of JSON and, where TensorBoard is installed, as its events; a run that goes on drops what came after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "metrics.jsonl"


class Metrics:
    """`metrics.jsonl` in `folder`, and TensorBoard's events beside it. `start`: the step that the run goes on from."""

    def __init__(self, folder: Path, start: int) -> None:
        self.path = folder / FILE
        kept = [line for line in read_metrics(folder) if line["step"] <= start]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._events = _events(folder / "tensorboard", start)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line, with the number of the step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        if self._events is not None:
            self._events.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`; none where there is no such file. A line that was cut by the end of a process is left out."""
    path = folder / FILE
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _events(folder: Path, start: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
