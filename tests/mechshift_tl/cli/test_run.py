"""`mechshift run`: a whole small study, and one clear line for every kind of bad input, with nothing written."""

from __future__ import annotations

import json

from mechshift_tl.study import Study


def test_run_writes_a_report_and_artefacts(invoke, tmp_path) -> None:
    result = invoke("run", "--pair", "tiny", "--tasks", "ioi", "--n", 4, "--held-out", 0, "--ig-steps", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "ARM → MDM" in result.output and "ARM → control" in result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "study.json", "table.csv", "ioi", "run.json"} == names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert Study.load(tmp_path / "out").table().to_csv(index=False) == (tmp_path / "out" / "table.csv").read_text()


def test_bad_input_is_one_clear_error(refused, tmp_path) -> None:
    full, empty, broken = (tmp_path / name for name in ("full", "empty", "broken"))
    for folder in (full, empty, broken):
        folder.mkdir()
    (full / "kept.txt").write_text("mine")
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}))
    out = tmp_path / "out"
    cases = {
        "unknown task 'chess'": ("run", "--pair", "tiny", "--tasks", "chess", "--out", out),
        "is not empty": ("run", "--pair", "tiny", "--out", full),
        "unknown rule 'middle'": ("run", "--pair", "tiny", "--rule", "middle", "--out", out),
        "nosuchpair": ("run", "--pair", "nosuchpair", "--out", out),
        "can make": ("run", "--pair", "tiny", "--tasks", "countdown", "--n", 10**6, "--out", out),
        "config.json": ("attribute", "--model", empty, "--task", "ioi", "--out", out),
        "broken": ("attribute", "--model", broken, "--task", "ioi", "--out", out),
    }
    for said, arguments in cases.items():
        refused(said, *arguments)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "empty", "full"], said
    assert (full / "kept.txt").read_text() == "mine"


def test_brackets_in_an_error_are_printed(refused, tmp_path) -> None:
    folder = tmp_path / "a[b]c"
    folder.mkdir()
    (folder / "kept.txt").write_text("mine")
    refused("a[b]c is not empty", "run", "--pair", "tiny", "--out", folder)
