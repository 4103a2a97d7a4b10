"""The command in this process, how it refuses, and a circuit to evaluate."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mechshift_tl import cli


@pytest.fixture(scope="session")
def invoke() -> Callable[..., Result]:
    """`invoke("attribute", "--n", 6, …)`: the command's result."""
    return lambda *arguments: CliRunner().invoke(cli.app, [str(one) for one in arguments])


@pytest.fixture(scope="session")
def refused(invoke) -> Callable[..., None]:
    """`refused(said, *arguments)`: one clear line that says so, exit status 2."""

    def check(said: str, *arguments: object) -> None:
        result = invoke(*arguments)
        output = " ".join(result.output.split())
        assert result.exit_code == 2 and said in output, (said, output)
        assert output.count("Error:") == 1 and "Traceback" not in output

    return check


@pytest.fixture(scope="session")
def model() -> Any:
    """The folder of the bundled pair's MDM."""
    return files("hooked_diffusion") / "pretrained" / "tiny" / "mdm"


@pytest.fixture(scope="session")
def attributed(invoke, model, tmp_path_factory) -> Path:
    """What `mechshift attribute` wrote of eight prompts, every prompt's own scores among it."""
    out = tmp_path_factory.mktemp("attributed") / "out"
    result = invoke(
        "attribute", "--model", model, "--task", "ioi", "--n", 8, "--ig-steps", 1, "--fraction", 0.2, "--keep-per-example", "--out", out
    )
    assert result.exit_code == 0 and "Accuracy, decoded freely: 1.000 (n = 8)" in result.output, result.output
    return out
