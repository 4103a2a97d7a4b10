"""`mechshift truth`: does each method find circuits that are known?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechshift_tl.cli.console import console, print_frame
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import Fresh, Out, Seed, words_of
from mechshift_tl.cli.results import results_in
from mechshift_tl.cli.scoring import check_least

if TYPE_CHECKING:
    import pandas as pd

    from mechshift_tl.truth import TruthTable


def truth(
    names: Annotated[str | None, typer.Option(help="Truths, separated by commas; default all. --names list prints them.")] = None,
    methods: Annotated[str | None, typer.Option(help="Names in the table, separated by commas; default all.")] = None,
    n_boot: Annotated[int, typer.Option(help="Draws of the prompts behind every interval.")] = 50,
    out: Out = None,
    seed: Seed = 0,
    fresh: Fresh = False,
) -> None:
    """Hold every method to models whose circuit is known: AUROC and average precision over edges, with 95 % intervals over prompts."""
    with clear_errors():
        from mechshift_tl.runs.stages import Stages
        from mechshift_tl.truth import TruthTable, measure_truths, truths
        from mechshift_tl.truth.measure import check_names, chosen_methods

        if names == "list":
            console.print("\n".join(truths()))
            return
        check_least("--n-boot", n_boot, 1)
        wanted = check_names(None if names is None else words_of(names))
        asked = chosen_methods(None if methods is None else words_of(methods))
        with results_in(out, fresh, command="truth", names=wanted, n_boot=n_boot, seed=seed, methods=list(asked)) as folder:
            measure = partial(measure_truths, wanted, asked, n_boot=n_boot, seed=seed)
            found = Stages(folder).result("truth.json", TruthTable.load, measure)
            if folder is not None:
                _save(folder, found)
        for against in ("moving", "program"):
            print_frame(f"AUROC against {against} edges, 95 % over prompts", _texts(found, against), against)
        for finding in found.findings():
            console.print(finding)
        if out is not None:
            console.print(f"Written: {out}")


def _texts(found: TruthTable, against: str) -> pd.DataFrame:
    """A row per truth, a column per method: the value, and its interval where that is not the value itself."""
    import pandas as pd

    rows: dict[str, dict[str, str]] = {}
    for row in (one for one in found.rows if one.against == against):
        low, high = row.auroc_interval.low, row.auroc_interval.high
        wide = f"{low:.2f}" != f"{high:.2f}"
        named = rows.setdefault(row.truth, {"truth": row.truth, "edges": f"{row.n_true} of {row.n_edges}"})
        named[row.method] = f"{row.auroc:.2f}" + (f" [{low:.2f}, {high:.2f}]" if wide else "")
    return pd.DataFrame(list(rows.values()))


def _save(folder: Path, found: TruthTable) -> None:
    """Write the table and its picture."""
    from mechshift_tl.report.page import write_page

    found.to_dataframe().to_csv(folder / "truth.csv", index=False)
    write_page(found.figure(), folder / "truth.html", "AUROC on edges that move, by truth and method")
