"""The verbs that only say something; and that help does not wait for torch."""

from __future__ import annotations

import subprocess
import sys

from hooked_diffusion.pairs.known import KNOWN_PAIRS, models
from mechshift_tl.cli.console import PatientConsole


def test_models_lists_every_natural_pair_with_licence_and_memory(invoke, monkeypatch) -> None:
    frame = models()
    assert list(frame["name"]) == sorted(KNOWN_PAIRS, key=lambda name: KNOWN_PAIRS[name].parameters)
    assert frame.set_index("name")["GiB (bf16)"]["dream-7b"] == 28.4
    for module in ("console", "models"):
        monkeypatch.setattr(sys.modules[f"mechshift_tl.cli.{module}"], "console", PatientConsole(markup=False, width=250))
    result = invoke("models")
    assert result.exit_code == 0, result.output
    assert "dream-7b" in result.output and "Apache-2.0" in result.output and "tiny" in result.output


def test_accuracy_prints_every_model(invoke) -> None:
    result = invoke("accuracy", "--pair", "tiny", "--tasks", "ioi", "--n", 20)
    assert result.exit_code == 0, result.output
    assert all(role in result.output for role in ("arm", "mdm", "control"))


def test_the_versions(invoke) -> None:
    assert "transformer-lens" in invoke("version").output


def test_help_names_every_verb_without_torch() -> None:
    code = "import sys; from typer.testing import CliRunner; from mechshift_tl.cli import app; r = CliRunner().invoke(app, ['--help'])"
    code += "; print(r.output); assert r.exit_code == 0 and 'torch' not in sys.modules and 'pandas' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in ("run", "attribute", "evaluate", "validity", "accuracy", "models", "convert", "plan", "version"):
        assert f"│ {verb} " in done.stdout, done.stdout
