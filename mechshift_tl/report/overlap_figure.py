"""The report's first figure: every overlap as a dot with its interval, between its floor and its ceiling."""

from __future__ import annotations

from mechshift_tl.plotting import Drawing, plain
from mechshift_tl.report.figures import validity_notes
from mechshift_tl.study.results import Study

CAPTION = """\
Overlap of the ARM's circuit with each other model's, in [0, 1]; prompts: {n}. Dot and line: value and 95 % bootstrap interval over prompts
(the interval lies low by its nature). Grey bar: the floor, 95 % of random circuits with the same layer profiles, and its mean. Dark tick:
the ceiling, split-half repeatability: a model with itself on disjoint halves of the prompts, corrected to all prompts; the lower of two."""


def overlaps(study: Study) -> Drawing:
    """Edge and component overlap of every comparison, one row each."""
    n = ", ".join(f"{task} {len(one.pool)}" for task, one in study.tasks.items())
    notes = [f"{plain(task)}: {note}" for task, one in study.tasks.items() for note in validity_notes(one)]
    return Drawing(study.figure(), "Overlap between floor and ceiling", " ".join([CAPTION.format(n=n), *notes]))
