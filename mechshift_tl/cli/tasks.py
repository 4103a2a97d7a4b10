"""`mechshift tasks`: what the models can be asked to do, each task with a prompt of it."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from itertools import islice

from mechshift_tl.cli.console import console, print_last
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import AsJson
from mechshift_tl.tasks.catalogue import CATALOGUE, Entry

#: Prompts that a task's groups are gathered from, and how many groups are named.
DRAWN, NAMED = 200, 3
OWN = "Your own: --task FILE or --data FILE, CSV or JSON lines of clean, corrupted, answer, foil, and group or suffix if you like."


def tasks(as_json: AsJson = False) -> None:
    """List the tasks: what each tests, a sample prompt, its groups; and how prompts of your own are given."""
    with clear_errors():
        found = [_described(entry) for entry in CATALOGUE.values()]
        for one in found:
            console.print(f"{one.name}: {one.tests} ({one.dependency})", style="bold", soft_wrap=True)
            console.print(f"  {one.clean!r} → {one.answer!r}, not {one.foil!r}", soft_wrap=True)
            console.print(f"  corrupted: {one.corrupted!r}", soft_wrap=True)
            console.print(f"  {len(one.groups)} groups, such as {', '.join(one.groups[:NAMED])}", style="dim", soft_wrap=True)
        print_last(OWN, tasks=[asdict(one) for one in found])


@dataclass(frozen=True)
class Described:
    """A task with a prompt of it; `groups` are those of some hundred prompts."""

    name: str
    tests: str
    dependency: str | None
    clean: str
    answer: str
    foil: str
    corrupted: str
    groups: list[str]


def _described(entry: Entry) -> Described:
    from mechshift_tl.tasks import task_class

    task = task_class(entry.name)()
    pairs = list(islice(task.draw(random.Random(0), "held_out"), DRAWN))
    one, groups = pairs[0], sorted({pair.group for pair in pairs})
    return Described(entry.name, entry.tests, task.dependency, one.prompt, one.answer, one.foil, one.corrupt_prompt, groups)
