"""The options of `mechshift run`: one per setting of a study, which is left as it is where the option is not given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechshift_tl.cli.options import MOST_DRAWS, MOST_POINTS, SEEDS, words_of

if TYPE_CHECKING:
    from mechshift_tl.study import StudyConfig


def _count(text: str, *, least: int = 0, most: int = MOST_DRAWS) -> Any:
    return typer.Option(help=text, min=least, max=most)


Quick = Annotated[bool, typer.Option("--quick", help="Fewer prompts and the quick measurements: a first look in minutes.")]
N = Annotated[int | None, _count("Prompts per task that all models of the pair read correctly.", least=2)]
StudySeed = Annotated[int | None, typer.Option("--seed", help="Seed of prompts, floors and intervals.", **SEEDS)]
StudyMethod = Annotated[str | None, typer.Option("--method", help="How edges are scored: eap-ig (default), eap, relp, gim, …")]
StudyGap = Annotated[float | None, typer.Option("--gap", help="Add points until the path misses this share of the effect, such as 0.02.")]
IgSteps = Annotated[int | None, _count("Points on the integration path.", least=1, most=MOST_POINTS)]
PathRule = Annotated[str | None, typer.Option(help="Where they lie: midpoint, gauss-legendre, right or left.")]
StudyKV = Annotated[str | None, typer.Option(help="K and V readers per KV head (grouped) or per query head (ungrouped).")]
Edges = Annotated[int | None, _count("Edges per circuit; default min(1000, 5 % of all).", least=1)]
Components = Annotated[int | None, _count("K of the component overlap; default min(100, 10 % of all).", least=1)]
Cut = Annotated[int | None, _count("Layers that count as early; default the first third.", least=1)]
NeuronLayer = Annotated[int | None, _count("Layer whose neurons are shown; default the last early one.")]
Draws = Annotated[int | None, _count("Draws of prompts behind intervals.")]
NRandom = Annotated[int | None, _count("Random circuits behind floors.", least=1)]
HeldOut = Annotated[int | None, _count("Further prompts on which circuits are run in every model; 0 runs none.")]
ValidityN = Annotated[int | None, _count("Of these, prompts on which edges are patched exactly; 0 patches none.")]
ValidityEdges = Annotated[int | None, _count("Top edges, and as many random ones, patched exactly.", least=2)]
Recovers = Annotated[float | None, typer.Option(help="Verdicts: what both own circuits must recover, at the lower end of the interval.")]
Clear = Annotated[float | None, typer.Option(help="Verdicts: by how much they must exceed the same circuits on permuted heads.")]
NullCircuits = Annotated[int | None, _count("Verdicts: circuits on permuted heads behind that.", least=1)]
Kept = Annotated[float | None, typer.Option(help="Verdicts: transfer from which a circuit is kept.")]
Replaced = Annotated[float | None, typer.Option(help="Verdicts: transfer below which a circuit is replaced.")]
EarlyMargin = Annotated[float | None, typer.Option(help="Verdicts: gain of early share that is front-loading.")]
SpreadMargin = Annotated[float | None, typer.Option(help="Verdicts: relative gain of the participation ratio that is distribution.")]
VerdictDraws = Annotated[int | None, _count("Verdicts: draws of prompts behind p-values.", least=1)]
Permutations = Annotated[int | None, _count("Verdicts: permutations of heads behind p-values.", least=1)]
Measurements = Annotated[str | None, typer.Option(help="all, quick, none, or names of measurements separated by commas.")]
StudyFile = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        help="A study.toml with settings and tasks; options win over it. Or FIELD=VALUE that the MDM's config.json leaves out or has wrong "
        "(arm.FIELD=VALUE: the ARM's; null takes FIELD out); may be repeated.",
    ),
]


def split_config(entries: list[str] | None) -> tuple[Path | None, list[str]]:
    """The study's file and the fields of a checkpoint's config. Raises ValueError on two files, and on one that does not exist."""
    files = [Path(entry) for entry in entries or [] if "=" not in entry]
    if len(files) > 1:
        raise ValueError(f"--config gives two files, {files[0]} and {files[1]}; give one")
    if files and not files[0].is_file():
        raise ValueError(f"--config {files[0]} does not exist; give a study.toml, or FIELD=VALUE of a checkpoint's config")
    return (files[0] if files else None), [entry for entry in entries or [] if "=" in entry]


def study_config(quick: bool, file: Path | None, given: dict[str, Any]) -> tuple[StudyConfig, str | None]:
    """The settings: options that were given, then the file's, then those of a quick study, then the defaults; and the file's tasks.

    Raises ValueError on a setting that cannot be.
    """
    from mechshift_tl.study import StudyConfig
    from mechshift_tl.study.config_file import TASKS, read_config_file

    settings: dict[str, Any] = {} if file is None else read_config_file(file)
    tasks = settings.pop(TASKS, None)
    if tasks is not None and not (isinstance(tasks, list) and all(isinstance(task, str) for task in tasks)):
        raise ValueError(f"{file}: tasks is {tasks!r}; give a list of names")
    settings |= {name: value for name, value in given.items() if value is not None}
    if isinstance(named := settings.get("measurements"), str) and named not in ("all", "quick", "none"):
        settings["measurements"] = tuple(words_of(named))
    made = StudyConfig.quick(**settings) if quick else StudyConfig(**settings)
    return made, ",".join(tasks) if tasks else None
