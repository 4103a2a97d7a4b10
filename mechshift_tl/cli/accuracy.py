"""`mechshift accuracy`: the share of prompts that each model of a pair answers right."""

from __future__ import annotations

from typing import Annotated

import typer

from mechshift_tl.cli.console import print_frame, print_last
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import AsJson, ConfigFields, Family, PairName, Quiet, Seed, open_pair, placed, read_as, tokenizer_of
from mechshift_tl.cli.task_options import Data, TaskNames, print_dropped, tasks_of

#: Tasks where none is named.
TASKS = "ioi,countdown"


def accuracy(
    pair: PairName,
    tasks: TaskNames = None,
    data: Data = None,
    n: Annotated[int | None, typer.Option(help="Held-out examples per task; default 500, or all of a file.")] = None,
    seed: Seed = 0,
    family: Family = None,
    config: ConfigFields = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Held-out accuracy of every model of a pair, decoded freely, with its 95 % interval (Wilson)."""
    with clear_errors():
        import pandas as pd
        from scipy.stats import binomtest

        from mechshift_tl.tasks import Prompts

        wanted = tasks_of(tasks or (TASKS if data is None else None), data)
        place, rows = placed(None) | read_as(family, config, of_pair=True), []
        models = open_pair(pair, place)
        tokenizer = tokenizer_of(models)
        for task in wanted:
            own = isinstance(task, Prompts)
            examples = task.examples(tokenizer, 500 if n is None and not own else n, seed)
            print_dropped(task, tokenizer)
            for role, model in models.models.items():
                share = task.accuracy(model, examples)
                # share × n is a number of prompts, so it is whole except for rounding errors.
                low, high = binomtest(round(share * len(examples)), len(examples)).proportion_ci(method="wilson")
                rows.append({"task": task.name, "model": role, "accuracy": share, "low": low, "high": high, "n": len(examples)})
        print_frame(f"Held-out accuracy of {pair}", pd.DataFrame(rows), "accuracy")
        print_last("; ".join(f"{row['task']}, {row['model']}: {row['accuracy']:.3f}" for row in rows))
