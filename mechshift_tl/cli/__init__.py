"""The command `mechshift`: a verb per file.

1. Settings and inputs are checked before any work; a bad one ends the command with one line and exit status 2 (`errors`).
2. Results appear in the output folder whole, or not at all; a stopped command goes on where it stopped (`results`).
3. Of processes launched together only the first prints and writes.

What a verb needs is imported when it runs, so that `mechshift --help` does not wait for torch.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mechshift_tl.cli.accuracy import accuracy
from mechshift_tl.cli.attribute import attribute
from mechshift_tl.cli.check_verdict import check_verdict
from mechshift_tl.cli.console import printing, settle_streams
from mechshift_tl.cli.convert import convert
from mechshift_tl.cli.diff import diff
from mechshift_tl.cli.evaluate import evaluate
from mechshift_tl.cli.generate import generate
from mechshift_tl.cli.inspect import inspect
from mechshift_tl.cli.models import models, print_version, version_asked
from mechshift_tl.cli.plan import plan
from mechshift_tl.cli.posttrain import posttrain
from mechshift_tl.cli.report import report
from mechshift_tl.cli.run import run
from mechshift_tl.cli.tasks import tasks
from mechshift_tl.cli.trajectory import trajectory
from mechshift_tl.cli.truth import truth
from mechshift_tl.cli.validity import validity

SUMMARY = "Circuits of autoregressive and masked-diffusion language models: found, compared, reported."


class App(typer.Typer):
    """The command, with streams that accept everything it prints."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Run it, as typer does."""
        settle_streams()
        with printing():
            return super().__call__(*arguments, **settings)


app = App(no_args_is_help=True, pretty_exceptions_enable=False, help=SUMMARY)
VERBS = (
    run, report, diff, trajectory, posttrain, attribute, evaluate, validity, truth, accuracy, check_verdict, generate, models, tasks,
    inspect, convert, plan,
)  # fmt: skip
for verb in VERBS:
    app.command()(verb)
app.command("version")(print_version)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=version_asked, help="Print the versions and end.")] = False,
) -> None:
    """What may stand before a verb."""
