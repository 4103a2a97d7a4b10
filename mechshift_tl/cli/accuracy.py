"""`mechshift accuracy`: the share of prompts that each model of a pair answers right."""

from __future__ import annotations

from typing import Annotated

import typer

from mechshift_tl.cli.console import print_frame
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import ConfigFields, Family, PairName, Seed, TaskNames, open_pair, placed, read_as, tasks_of, tokenizer_of


def accuracy(
    pair: PairName,
    tasks: TaskNames = "ioi,countdown",
    n: Annotated[int, typer.Option(help="Held-out examples per task.")] = 500,
    seed: Seed = 0,
    family: Family = None,
    config: ConfigFields = None,
) -> None:
    """Held-out accuracy of every model of a pair, decoded freely, with its 95 % interval (Wilson)."""
    with clear_errors():
        import pandas as pd
        from scipy.stats import binomtest

        wanted, place, rows = tasks_of(tasks), placed(None) | read_as(family, config, of_pair=True), []
        models = open_pair(pair, place)
        tokenizer = tokenizer_of(models)
        for task in wanted:
            examples = task.examples(tokenizer, n, seed)
            for role, model in models.models.items():
                share = task.accuracy(model, examples)
                # share × n is a number of prompts, so it is whole except for rounding errors.
                low, high = binomtest(round(share * n), n).proportion_ci(method="wilson")
                rows.append({"task": task.name, "model": role, "accuracy": share, "low": low, "high": high, "n": n})
        print_frame(f"Held-out accuracy of {pair}", pd.DataFrame(rows))
