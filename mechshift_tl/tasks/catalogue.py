"""The tasks by name, and what each one tests. Nothing heavy is imported here, so a wrong name is answered at once."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Entry:
    """A task's name, the module and class that make it, and in a line what it tests."""

    name: str
    module: str
    class_name: str
    tests: str


CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry("ioi", "ioi", "IOI", "which of two names comes again: the indirect object of a sentence"),
        Entry("greater_than", "greater_than", "GreaterThan", "a year after the one in the sentence"),
        Entry("countdown", "countdown", "Countdown", "equations that reach a target with given numbers; all of the prompt counts"),
        Entry("infilling", "infilling", "SemanticInfilling", "a word that the text on both of its sides decides"),
        Entry("arithmetic", "arithmetic", "Arithmetic", "sums in steps: operands are copied, results are computed"),
    )
}


def task_name(text: str) -> str:
    """The name of the task that `text` means: its name or that of its class, in any case. Raises ValueError, with the nearest name."""
    known = {_plain(word): entry.name for entry in CATALOGUE.values() for word in (entry.name, entry.class_name)}
    if (found := known.get(_plain(text))) is not None:
        return found
    near = get_close_matches(_plain(text), known, n=1)
    meant = f"did you mean {known[near[0]]}? There are" if near else "choose from"
    raise ValueError(f"unknown task {text!r}; {meant} {', '.join(CATALOGUE)}, or a file of prompts (.csv, .jsonl)")


def _plain(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
