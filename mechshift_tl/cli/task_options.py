"""The options that name tasks and files of prompts, and the tasks that they stand for.

A word is a task's name, in any case, or a file of prompts. Words are checked before torch is imported, so a slip is answered at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechshift_tl.cli.console import console
from mechshift_tl.cli.errors import opening, refusal
from mechshift_tl.cli.options import not_empty, words_of
from mechshift_tl.tasks.catalogue import CATALOGUE, task_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mechshift_tl.tasks import Task

NAMES = ", ".join(CATALOGUE)
#: How names of files of prompts end.
ENDINGS = (".csv", ".tsv", ".jsonl", ".json")
#: Dropped rows that are listed; the others are counted.
LISTED = 8


def is_file(word: str) -> bool:
    """Whether a word means a file, there or not, rather than a task."""
    return word.lower().endswith(ENDINGS) or os.sep in word or (Path(word).is_file() and not _is_task(word))


def _is_task(word: str) -> bool:
    try:
        return bool(task_name(word))
    except ValueError:
        return False


def _checked(word: str | None) -> str | None:
    """A task or file, for typer to check before a verb runs. Ends the command on a task that there is not, with the nearest."""
    if not_empty(word) is not None and not is_file(str(word)):
        try:
            task_name(str(word))
        except ValueError as error:
            raise refusal(error) from None
    return word


def _each_checked(words: str | None) -> str | None:
    for word in words_of(words or ""):
        _checked(word)
    return words


TaskName = Annotated[str | None, typer.Option("--task", callback=_checked, help=f"{NAMES}, or a file of prompts.")]
TaskNames = Annotated[
    str | None, typer.Option("--tasks", "--task", callback=_each_checked, help="Tasks or files of prompts, separated by commas.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", callback=not_empty, help="File of prompts: CSV or JSON lines of clean, corrupted, answer, foil; or as a task's own are."
    ),
]


def named(task: str | None, data: Path | None) -> tuple[str | None, Path | None]:
    """The task's name and the file of prompts that a command was given, or None. Raises ValueError on neither, and on two files."""
    if task is None and data is None:
        raise ValueError(f"no task was given; name one by --task ({NAMES}), or give your own prompts by --data FILE")
    if task is None or not is_file(task):
        return None if task is None else task_name(task), data
    if data is not None:
        raise ValueError(f"--task {task} and --data {data} are two files of prompts; give one")
    return None, Path(task)


def task_of(name: str | None, data: Path | None) -> Task:
    """The task of that name, on prompts of its own making or those of a file; without a name, whatever the file holds.

    Raises ValueError where there is no such task or file, and where the file cannot be read.
    """
    from mechshift_tl.tasks import IOI, Countdown, GreaterThan, Prompts, task_class
    from mechshift_tl.tasks.prompt_files import has_answers

    chosen = None if name is None else task_class(name)
    if data is None:
        return chosen() if chosen is not None else named(name, data)  # pyright: ignore[reportReturnType] (it raises)
    if not data.exists():
        raise ValueError(f"data file {data} does not exist")
    with opening(f"data file {data}"):
        if chosen is None or has_answers(data):
            return Prompts.from_file(data, name=name, like=None if chosen is None else chosen())
        if chosen is IOI or chosen is GreaterThan:
            return chosen.from_csv(data)
        if chosen is Countdown:
            return Countdown.from_jsonl(data)
    raise ValueError(f"task {name!r} reads files with columns clean, corrupted, answer and foil; {data} has no answer or no foil")


def tasks_of(words: str | None, data: Path | None = None) -> list[Task]:
    """The tasks and files named in a text, separated by commas; with `data`, that file for the one task that is named, or for none.

    Raises ValueError on an unknown task, on one given twice, and on none.
    """
    wanted = [None] if words is None and data is not None else words_of(words or "")
    if data is not None and len(wanted) > 1:
        raise ValueError(f"--data {data} is for one task, and --tasks names {len(wanted)}; name files in --tasks instead")
    tasks = [task_of(*named(word, data)) for word in wanted]
    names = [task.name for task in tasks]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"--tasks is {words!r}; name at least one task, each once")
    return tasks


def words_for_file(words: str | None, data: Path | None) -> list[str]:
    """The same tasks as a study.toml names them, which may be read from another folder: files by their whole path."""
    return [str(Path(word).resolve()) if is_file(word) else word for word in ([str(data)] if data is not None else words_of(words or ""))]


def print_dropped(task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
    """List the rows of one's own prompts that the tokenizer cannot align, with the reason."""
    from mechshift_tl.tasks import Prompts

    if not isinstance(task, Prompts):
        return
    dropped = task.dropped(tokenizer).to_dict("records")
    for row in dropped[:LISTED]:
        console.print(f"Dropped: {row['row']}: {row['reason']}", soft_wrap=True)
    if len(dropped) > LISTED:
        console.print(f"Dropped: {len(dropped) - LISTED} more")
