"""`mechshift truth` on one small truth, and what it refuses."""

from __future__ import annotations

from typer.testing import CliRunner

from mechshift_tl.cli import app


def test_a_truth_is_measured_and_written(tmp_path) -> None:
    asked = ["--names", "histogram-full", "--methods", "EAP,EAP-IG 5", "--n-boot", "2"]
    done = CliRunner().invoke(app, ["truth", *asked, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "Supported: exact patching" in done.output
    assert {"truth.csv", "truth.html", "truth.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_names_are_listed_and_checked() -> None:
    assert "planted-full" in CliRunner().invoke(app, ["truth", "--names", "list"]).output
    for option in ("--names", "--methods"):
        refused = CliRunner().invoke(app, ["truth", option, "nand"])
        assert refused.exit_code == 2
        assert "'nand' is unknown" in refused.output
