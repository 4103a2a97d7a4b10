"""`mechshift validity`: do a method's scores predict the effect of patching an edge?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechshift_tl.cli.console import console, print_frame, print_last
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import (
    KV,
    AsJson,
    ConfigFields,
    DeviceMap,
    Family,
    Fresh,
    Out,
    Quiet,
    Seed,
    open_model,
    open_pair,
    placed,
    read_as,
    tokenizer_of,
    words_of,
)
from mechshift_tl.cli.prompts import print_prompts
from mechshift_tl.cli.results import claim, results_in, told_apart, written_to
from mechshift_tl.cli.scoring import GapGiven, MetricName, StepsGiven, check_least, scoring
from mechshift_tl.cli.task_options import Data, TaskName, named, task_of

if TYPE_CHECKING:
    import pandas as pd

    from hooked_diffusion.pairs import Pair
    from mechshift_tl.attribution.settings import PathSettings
    from mechshift_tl.bridge.protocol import HookedModel
    from mechshift_tl.evaluation.validity import Validity
    from mechshift_tl.readouts import Readouts
    from mechshift_tl.runs.stages import Stages
    from mechshift_tl.tasks import Task
    from mechshift_tl.tasks.examples import Examples


def validity(
    task: TaskName = None,
    model: Annotated[str | None, typer.Option(help="One model: checkpoint folder, GGUF file, or hub id (org/name@revision).")] = None,
    pair: Annotated[str | None, typer.Option(help="Or a pair, whose ARM and MDM are measured on the same prompts.")] = None,
    data: Data = None,
    n: Annotated[int, typer.Option(help="Prompts; of a pair, those that both models read correctly.")] = 20,
    out: Out = None,
    methods: Annotated[str | None, typer.Option(help="Names in the table, separated by commas; default all.")] = None,
    top: Annotated[int, typer.Option(help="Strongest edges that are patched exactly.")] = 200,
    random: Annotated[int, typer.Option(help="Further edges, drawn at random.")] = 200,
    ig_steps: StepsGiven = None,
    gap: GapGiven = None,
    metric: MetricName = "logit_diff",
    kv: KV = "grouped",
    seed: Seed = 0,
    device_map: DeviceMap = None,
    fresh: Fresh = False,
    family: Family = None,
    config: ConfigFields = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Hold every method's scores against exact patching: Spearman and Pearson correlations over edges, with 95 % intervals over prompts."""
    with clear_errors():
        from mechshift_tl.evaluation.validity import Validity
        from mechshift_tl.evaluation.validity import validity as measure_validity
        from mechshift_tl.evaluation.validity.measure import RANK_BY, check_asked
        from mechshift_tl.runs.processes import Processes
        from mechshift_tl.runs.stages import Stages

        if (model is None) == (pair is None):
            raise ValueError("give one of --model and --pair")
        check_least("--n", n, 2)
        name, file = named(task, data)
        asked, chosen, place = _methods(methods, ig_steps, gap, metric, kv), task_of(name, file), placed(device_map)
        how = read_as(family, config, of_pair=model is None)
        # Without the usual method, the first that was named ranks the edges.
        rank_by = RANK_BY if RANK_BY in asked else next(iter(asked))
        check_asked(asked, rank_by, {"n_top": top, "n_random": random})
        asked_for = {"rank_by": rank_by, "n_top": top, "n_random": random}
        settings = {**asked_for, "ig_steps": ig_steps, "gap": gap, "metric": metric, "kv": kv, "seed": seed}
        job = {"command": "validity", "model": model, "pair": pair, "task": chosen.name, "data": told_apart(file), "n": n, **settings}
        with results_in(out, fresh, **job, **how, methods=list(asked)) as folder:
            stages = Stages(folder)
            if model is None:
                models, rows, examples = _of_pair(open_pair(str(pair), place | how), chosen, n, seed, stages)
            else:
                models, rows, examples = _of_model(open_model(model, place | how), chosen, n, seed, stages)
            found = {
                role: stages.result(
                    f"{role}.validity.safetensors", Validity.load,
                    partial(measure_validity, models[role], rows[role], methods=asked, **settings),
                )
                for role in models
            }  # fmt: skip
            if folder is not None:
                Processes.here().once(lambda: _save(folder, found, examples))
        print_frame(
            f"Correlation with exact patching on {len(examples)} prompts of {chosen.name}, 95 % over prompts", _texts(found), "validity"
        )
        print_last(f"{_note(found)}{written_to(out)}", out=out)


def _methods(names: str | None, ig_steps: int | None, gap: float | None, metric: str, kv: str) -> dict[str, PathSettings]:
    """Those of `validity.METHODS` that were named. Raises ValueError on an unknown name, and where a method has no use for the settings."""
    from mechshift_tl.evaluation.validity import METHODS
    from mechshift_tl.evaluation.validity.measure import with_points

    known = {_plain(name): name for name in METHODS}
    wanted = list(METHODS) if names is None else words_of(names)
    if unknown := [word for word in wanted if _plain(word) not in known] or ([""] if not wanted else []):
        raise ValueError(f"--methods: unknown method {unknown[0]!r}; choose of {', '.join(METHODS)}")
    chosen = {known[_plain(word)]: METHODS[known[_plain(word)]] for word in wanted}
    for one in chosen.values():
        path = with_points(one, ig_steps, gap)
        # Called for its checks alone.
        scoring(path.get("method", ""), metric, kv=kv, ig_steps=path.get("ig_steps"), rule=path.get("rule"), gap=path.get("gap"))
    return chosen


def _plain(name: str) -> str:
    """A method's name in the form that is compared: small letters, and a plain hyphen in Gauss-Legendre."""
    return name.replace("–", "-").lower()


def _of_model(
    model: HookedModel, task: Task, n: int, seed: int, stages: Stages
) -> tuple[dict[str, HookedModel], dict[str, Readouts], Examples]:
    """One model, and its readouts of the task's first `n` prompts."""
    from mechshift_tl.readouts import readouts

    examples = task.examples(model.tokenizer, n, seed)
    print_prompts(examples, task)
    claim(stages, {"model": model}, examples)
    return {"model": model}, {"model": readouts(model, examples, seed=seed)}, examples


def _of_pair(pair: Pair, task: Task, n: int, seed: int, stages: Stages) -> tuple[Mapping[str, HookedModel], dict[str, Readouts], Examples]:
    """ARM and MDM, and their readouts of `n` prompts that both read correctly."""
    from mechshift_tl.readouts.pool import common_correct
    from mechshift_tl.tasks.task import ExampleStream

    models = {role: model for role, model in pair.models.items() if role != "control"}
    # One stream, so that the prompts whose claim is made are those that the pool then draws.
    stream = ExampleStream(task, tokenizer_of(pair), seed)
    claim(stages, models, stream.exactly(n))
    pool = common_correct(models, task, n, seed=seed, drawn=stream, stages=stages)
    return models, pool.readouts, pool.examples


def _texts(found: Mapping[str, Validity]) -> pd.DataFrame:
    """The table as text: a row per model, method and choice of edges, a column per correlation, "value [low, high]"."""
    import pandas as pd

    def cell(row: Mapping[Hashable, float], name: str) -> str:
        return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"

    rows = [
        {"model": role, "method": row["method"], "edges": f"{row['n_edges']} {row['edges']}"}
        | {"Spearman": cell(row, "spearman"), "Pearson": cell(row, "pearson")}
        for role, one in found.items()
        for row in one.table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _note(found: Mapping[str, Validity]) -> str:
    """What may mislead; and of a pair, whether the method is less valid on the MDM."""
    from mechshift_tl.evaluation.validity import validity_note

    for role, one in found.items():
        for warning in one.warnings:
            console.print(f"Warning ({role}): {warning}")
    if found.keys() == {"arm", "mdm"}:
        return validity_note(found["arm"], found["mdm"]) or "The method that ranked the edges is no less valid on the MDM"
    return "Scores are held against exact patching"


def _save(folder: Path, found: Mapping[str, Validity], examples: Examples) -> None:
    """Write one table of all models, a figure of each, and the prompts."""
    import pandas as pd

    from mechshift_tl.report.page import write_page

    tables = [one.table.assign(model=role) for role, one in found.items()]
    pd.concat(tables, ignore_index=True).to_csv(folder / "validity.csv", index=False)
    for role, one in found.items():
        write_page(one.figure(), folder / f"{role}.validity.html", f"Scores over exact effects on {examples.task}: {role}")
    examples.write_csv(folder / "prompts.csv")
