"""`mechshift run`: a whole small study, and one clear line for every kind of bad input, with nothing written."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields

import pytest

from mechshift_tl.cli.run import OTHERS, run
from mechshift_tl.cli.study_options import split_config, study_config
from mechshift_tl.study import Study, StudyConfig


def test_run_writes_a_report_and_artefacts(invoke, tmp_path) -> None:
    result = invoke(
        "run",
        "--pair",
        "tiny",
        "--tasks",
        "ioi",
        "--n",
        4,
        "--held-out",
        0,
        "--ig-steps",
        1,
        "--measurements",
        "none",
        "--out",
        tmp_path / "out",
    )
    assert result.exit_code == 0, result.output
    assert "ARM → MDM" in result.output and "ARM → control" in result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "study.json", "study.toml", "table.csv", "verdicts.json", "ioi", "run.json"} == names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert Study.load(tmp_path / "out").table().to_csv(index=False) == (tmp_path / "out" / "table.csv").read_text()


def test_every_setting_of_a_study_has_an_option() -> None:
    others = set(OTHERS)
    assert set(inspect.signature(run).parameters) - others == {one.name for one in fields(StudyConfig)}


def test_options_win_over_the_file_and_the_file_over_a_quick_study(tmp_path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('n = 30\nrule = "left"\ntasks = ["ioi"]\n')
    made, tasks = study_config(True, file, {"n": None, "rule": "right", "measurements": "depth, steps"})
    assert made == StudyConfig.quick(n=30, rule="right", measurements=("depth", "steps")) and tasks == "ioi"
    assert study_config(False, None, {}) == (StudyConfig(), None)


def test_what_config_names(tmp_path) -> None:
    file = tmp_path / "study.toml"
    file.write_text("")
    assert split_config([str(file), "rope_theta=1"]) == (file, ["rope_theta=1"]) and split_config(None) == (None, [])
    for entries, said in ((["a.toml"], "a.toml does not exist; give a study.toml, or FIELD=VALUE"), ([str(file)] * 2, "gives two files")):
        with pytest.raises(ValueError, match=said):
            split_config(entries)


def test_bad_input_is_one_clear_error(refused, tmp_path, tmp_path_factory) -> None:
    kept = tmp_path_factory.mktemp("kept")
    full, empty, broken = (tmp_path / name for name in ("full", "empty", "broken"))
    for folder in (full, empty, broken):
        folder.mkdir()
    (full / "kept.txt").write_text("mine")
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}))
    misspelled = kept / "study.toml"
    misspelled.write_text("ig_step = 5")
    out = tmp_path / "out"
    cases = {
        "unknown task 'chess'": ("run", "--pair", "tiny", "--tasks", "chess", "--out", out),
        "is not empty": ("run", "--pair", "tiny", "--out", full),
        "unknown rule 'middle'": ("run", "--pair", "tiny", "--rule", "middle", "--out", out),
        "nosuchpair": ("run", "--pair", "nosuchpair", "--out", out),
        "can make": ("run", "--pair", "tiny", "--tasks", "countdown", "--n", 10**6, "--out", out),
        "names 'nothing'": ("run", "--pair", "tiny", "--measurements", "nothing", "--out", out),
        "is no setting": ("run", "--pair", "tiny", "--config", misspelled, "--out", out),
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
