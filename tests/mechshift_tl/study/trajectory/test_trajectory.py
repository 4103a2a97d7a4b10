"""A trajectory of the bundled pair's own models, as if they were checkpoints of one training: small, and with known ends."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from hooked_diffusion import load_pair
from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.compare.headline import early_of_all_edges
from mechshift_tl.intervals import Interval
from mechshift_tl.report.trajectory import write_trajectory_report
from mechshift_tl.study import StudyConfig
from mechshift_tl.study.trajectory import TrainingRun, Trajectory, run_trajectory
from mechshift_tl.study.trajectory.checkpoints import write_trained
from mechshift_tl.study.trajectory.point import LABELS, TrajectoryPoint
from mechshift_tl.tasks import IOI

CONFIG = StudyConfig(n=6, ig_steps=1, n_boot=30, n_random=8, held_out=6, null_circuits=1, measurements="none")
BUNDLED = Path(str(resources.files("hooked_diffusion") / "pretrained" / "tiny"))


def run_folder(place: Path, model: str, steps: dict[int, int]) -> Path:
    """A run's folder whose checkpoints all hold the weights of one bundled model."""
    for step, tokens in steps.items():
        checkpoint = place / "checkpoints" / str(step)
        checkpoint.mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            (checkpoint / file).symlink_to(BUNDLED / model / file)
        write_trained(checkpoint, step, tokens, "tiny")
    return place


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingRun]:
    place = tmp_path_factory.mktemp("runs")
    return [TrainingRun.of(run_folder(place / role, role, {3800: 8_000_000}), role) for role in ("mdm", "control")]


@pytest.fixture(scope="module")
def found(runs: list[TrainingRun], tmp_path_factory: pytest.TempPathFactory) -> tuple[Trajectory, Path]:
    folder = tmp_path_factory.mktemp("trajectory") / "out"
    return run_trajectory(runs, [IOI()], CONFIG, folder=folder), folder


def test_the_start_is_the_arm_read_as_the_run_is(found: tuple[Trajectory, Path]) -> None:
    trajectory, _ = found
    assert [(one.role, one.step) for one in trajectory.points] == [
        ("arm", 0), ("mdm", 0), ("mdm", 3800), ("control", 0), ("control", 3800)
    ]  # fmt: skip
    # A control begins as the ARM itself: one circuit, which does there what it does here.
    start, (arm,) = trajectory.of("ioi", "control")[0], trajectory.of("ioi", "arm")
    assert start.of("edge_overlap")[0] == start.of("component_overlap")[0] == start.of("tau_arm_in_model")[0] == 1
    for name in arm.names:
        assert start.of(name)[0] == pytest.approx(arm.of(name)[0])
    # The same weights under full attention, with a mask where the answer stands: another circuit, before any training.
    assert trajectory.of("ioi", "mdm")[0].of("edge_overlap")[0] < 1


def test_figures_are_those_of_the_studys_own_functions(found: tuple[Trajectory, Path]) -> None:
    trajectory, folder = found
    pair, last = load_pair("tiny"), trajectory.of("ioi", "mdm")[1]
    from mechshift_tl.readouts.pool import common_correct

    pool = common_correct(pair.models, IOI(), 12, decode=False).select(range(6))
    assert pool.decoded_correctly == {}
    scores = attribute_edges(pair.mdm, pool.readouts["mdm"], CONFIG.attribution)
    assert last.of("early_share")[0] == pytest.approx(early_of_all_edges(scores), abs=1e-6)
    assert last.n_read == pool.tried and last.of("accuracy")[0] == pytest.approx(pool.read_correctly["mdm"])
    assert last.names == tuple(LABELS)
    assert (folder / "ioi" / "mdm-3800.point.safetensors").is_file()


def test_it_is_kept_loaded_and_not_made_twice(found: tuple[Trajectory, Path], runs: list[TrainingRun], tmp_path: Path) -> None:
    trajectory, folder = found
    again = Trajectory.load(folder)
    assert again.to_dataframe().equals(trajectory.to_dataframe()) and again.config == CONFIG
    trajectory.save(tmp_path)
    assert Trajectory.load(tmp_path).finding() == trajectory.finding()
    said: list[str] = []
    resumed = run_trajectory(runs, [IOI()], CONFIG, folder=folder, progress=said.append)
    assert resumed.to_dataframe().equals(trajectory.to_dataframe())
    assert not [one for one in said if "steps" in one]
    with pytest.raises(ValueError, match="other"):
        run_trajectory(runs, [IOI()], replace(CONFIG, seed=1), folder=folder)


def test_too_few_checkpoints_are_said_and_drawn(found: tuple[Trajectory, Path], tmp_path: Path) -> None:
    trajectory, _ = found
    assert "cannot tell (2 checkpoints" in trajectory.finding()
    page = write_trajectory_report(trajectory, tmp_path / "report.html").read_text()
    assert "cannot tell" in page and "figure-1" in page
    assert len(list(trajectory.figure("ioi").select_traces())) > 2 * len(LABELS)
    with pytest.raises(ValueError, match="holds no 'control'"):
        replace(trajectory, points=trajectory.points[:3]).series("ioi", "control", "accuracy")


def made_point(role: str, step: int, values: list[float], seed: int) -> TrajectoryPoint:
    generator = torch.Generator().manual_seed(seed)
    value = torch.tensor(values, dtype=torch.float64)
    draws = value + 0.02 * torch.randn(60, len(values), generator=generator, dtype=torch.float64)
    floors = {"edge_overlap": Interval(0.1, 0.05, 0.15, 9)}
    names = ("edge_overlap", "accuracy", "early_share")
    return TrajectoryPoint("made", role, step, 1000 * step, 0.1, 6, 6, 12, names, value, draws, floors, {"edge_overlap": 0.8})


def made() -> Trajectory:
    """Overlap falls at once and early; depth grows slowly; accuracy comes late."""
    steps = (0, 10, 20, 50, 100, 200, 400, 800)
    mdm = [made_point("mdm", s, [0.9 if i < 2 else 0.4, float(i > 5), 0.3 + 0.05 * i], i) for i, s in enumerate(steps)]
    return Trajectory("a <b> arm", StudyConfig(), (made_point("arm", 0, [1, 1, 0.3], 99), *mdm))


def test_what_changed_when_and_first() -> None:
    trajectory = made()
    overlap, depth, accuracy = trajectory.changes["made", "mdm"]
    assert (overlap.answer, depth.answer, accuracy.answer) == ("abrupt", "gradual", "abrupt")
    assert 10_000 <= overlap.low < overlap.at < overlap.high <= 20_000
    assert trajectory.order["made", "mdm"].first == "overlap"
    assert "What moves first: overlap" in trajectory.finding() and "After 0, 10, 20, 50, 100, 200 steps" in trajectory.finding()
    assert set(trajectory.changes_table()["first"]) == {"overlap"}
    assert "<b> arm" not in trajectory._repr_html_()
    figure: Any = trajectory.figure()  # plotly makes its attributes at run time
    assert figure.layout.shapes


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"tokens": 3}, "holds no step"),
        ({"step": 5, "tokens": -1}, "whole numbers"),
        ({"step": 0, "tokens": 7}, "whole numbers"),
        ({"step": 3800, "tokens": 1}, "give each once"),
        ({"step": 9, "tokens": 9, "arm": "other"}, "give those of one run"),
    ],
)
def test_folders_that_are_no_run(told: dict[str, object], says: str, tmp_path: Path) -> None:
    run_folder(tmp_path, "mdm", {3800: 8_000_000})
    (tmp_path / "checkpoints" / "7").mkdir()
    (tmp_path / "checkpoints" / "7" / "trained.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=says):
        TrainingRun.of(tmp_path, "mdm")


def test_the_folder_that_a_post_training_leaves(tmp_path: Path) -> None:
    for step in (0, 1, 3):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    (tmp_path / "posttrain.json").write_text('{"base": {"name": "org/arm"}}')
    lines = [{"step": 1, "tokens": 10}, {"step": 1, "held_out_loss": 2.0}, {"step": 2, "tokens": 20}, {"step": 3, "tokens": 30}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = TrainingRun.of(tmp_path, "mdm")
    assert (run.arm, [(one.step, one.tokens) for one in run.checkpoints]) == ("org/arm", [(0, 0), (1, 10), (3, 60)])
    assert run.started_from("org/arm") == run  # it has its start
    (tmp_path / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(ValueError, match="does not tell the tokens up to step 3"):
        TrainingRun.of(tmp_path, "mdm")


def test_runs_and_settings_that_cannot_be(runs: list[TrainingRun], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no checkpoints"):
        TrainingRun.of(tmp_path, "mdm")
    with pytest.raises(ValueError, match="no checkpoint at step 7"):
        runs[0].only([7])
    for given, says in (
        ({"runs": runs[1:]}, "give the mdm's"),
        ({"runs": [replace(runs[0], arm="")]}, "do not say"),
        ({"tasks": []}, "at least one"),
        ({"config": replace(CONFIG, held_out=0)}, "held_out is 0"),
    ):
        with pytest.raises(ValueError, match=says):
            run_trajectory(**{"runs": runs, "tasks": [IOI()], "config": CONFIG, **given})
