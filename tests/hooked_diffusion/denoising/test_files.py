"""Anyone may have written what is read: a damaged file gives one sentence with file, field and remedy, and no string runs as HTML."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.denoising import DenoisingCache, DenoisingTrajectory
from hooked_diffusion.denoising.trajectory_statistics import TrajectoryStatistics

MASK = 2
CANVAS = torch.tensor([[20, 9, MASK, MASK, 30, MASK], [4, 5, 6, MASK, 8, 9]])
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def mdm(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec("full", 1, MASK))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the JSON of a file in place; what `change` returns, if anything, replaces it."""
    values = json.loads(path.read_text())
    changed = change(values)
    path.write_text(json.dumps(values if changed is None else changed))


DAMAGED_VALUES = {
    "not JSON": (None, r"run\.json is damaged, or no JSON"),
    "a list": (lambda v: [], r"run\.json holds a JSON list"),
    "a missing field": (
        lambda v: v.pop("forwards") and None,
        "run.json is damaged: forwards is missing, which DenoisingTrajectory needs",
    ),
    "a wrong type": (lambda v: v.update(forwards="many"), r"run\.json is damaged: forwards is 'many', not int"),
    "an unknown setting": (lambda v: v["settings"].update(evil=1), r"settings\.evil is unknown to DenoisingSettings"),
    "an impossible setting": (lambda v: v["settings"].update(top_p=7), "top_p, the mass that tokens are drawn from"),
    "an unknown field": (lambda v: v.update(extra=1), r"extra is unknown to DenoisingTrajectory"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGED_VALUES.values(), ids=DAMAGED_VALUES)
def test_a_damaged_side_file_of_a_trajectory_is_named(mdm, tmp_path, change, message):
    mdm.denoise(CANVAS).save(tmp_path / "run")
    if change is None:
        (tmp_path / "run.json").write_text("{")
    else:
        edit(tmp_path / "run.json", change)
    with pytest.raises(ValueError, match=message):
        DenoisingTrajectory.load(tmp_path / "run")


def test_damaged_tensors_of_a_trajectory_are_named(mdm, tmp_path):
    mdm.denoise(CANVAS).save(tmp_path / "run")
    path = tmp_path / "run.safetensors"
    whole, tensors = path.read_bytes(), load_file(path)
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"run\.safetensors is damaged, or no safetensors file"):
        DenoisingTrajectory.load(path)
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match=r"run\.safetensors holds no denoising trajectory; give a file written by DenoisingTrajectory\.save"
    ):
        DenoisingTrajectory.load(path)
    header = {"denoising trajectory": "{}"}
    save_file(tensors | {"commit_step": tensors["commit_step"][:, 1:].contiguous()}, path, header)
    with pytest.raises(ValueError, match=r"run\.safetensors.* is damaged: commit_step is int64 \(2, 5\)"):
        DenoisingTrajectory.load(path)
    save_file({name: tensor for name, tensor in tensors.items() if name != "masked"}, path, header)
    with pytest.raises(ValueError, match="masked is missing, which DenoisingTrajectory needs"):
        DenoisingTrajectory.load(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        DenoisingTrajectory.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["trajectory statistics"].pop("steps") and None, "steps is missing, which TrajectoryStatistics needs"),
        (lambda v: v["trajectory statistics"].update(orders=3), "orders is 3, not an object"),
        (lambda v: v["trajectory statistics"]["orders"].update(tau=[1.0, 2.0, 3.0]), "its columns differ in length"),
    ],
)
def test_damaged_statistics_are_named(mdm, tmp_path, change, message):
    mdm.denoise(CANVAS).statistics(mdm).save(tmp_path / "run.json")
    edit(tmp_path / "run.json", change)
    with pytest.raises(ValueError, match=rf"run\.json is damaged: .*{message}.*; give a file written by TrajectoryStatistics\.save"):
        TrajectoryStatistics.load(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(kind="something"), "is no denoising cache"),
        (lambda v: v["steps"].update({"0": "../run.safetensors"}), r"steps\.0 is '\.\./run\.safetensors', not the name of a file"),
        (lambda v: v["steps"].update({"0": "/etc/passwd"}), "not the name of a file in the folder"),
        (lambda v: v["steps"].update({"zero": "step-00000.safetensors"}), "a key of steps is 'zero', not a whole number"),
        (lambda v: v["steps"].update({"0": 7}), r"steps\.0 is 7, not str"),
        (lambda v: v["steps"].update({"0": "index.json"}), r"index\.json is damaged, or no file of a denoising cache"),
        (lambda v: v["steps"].update({"0": "absent.safetensors"}), r"absent\.safetensors"),
        (lambda v: [], r"index\.json holds a JSON list"),
    ],
)
def test_a_damaged_index_of_a_cache_is_named(mdm, tmp_path, change, message):
    mdm.run_with_denoising_cache(CANVAS, names_filter="blocks.0.hook_out", folder=tmp_path / "run")
    edit(tmp_path / "run" / "index.json", change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DenoisingCache.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("same", "message"),
    [
        ("{", "is damaged, or no file"),
        ("[1]", "is damaged, or no file"),
        ('{"a": "gone"}', "lacks the tensor 'gone'"),
        ('{"a": {}}', "lacks"),
    ],
)
def test_a_damaged_file_of_a_cache_is_named(mdm, tmp_path, same, message):
    mdm.run_with_denoising_cache(CANVAS, names_filter="blocks.0.hook_out", folder=tmp_path / "run")
    path = tmp_path / "run" / "step-00000.safetensors"
    save_file(load_file(path), path, {"same": same})
    with pytest.raises(ValueError, match=rf"step-00000\.safetensors .*{message}.*write the folder again by run_with_denoising_cache"):
        DenoisingCache.load(tmp_path / "run")


def test_what_a_dead_run_left_beside_a_cache_folder_is_named(mdm, tmp_path):
    (tmp_path / "run.partial").mkdir()
    with pytest.raises(FileExistsError, match=r"run\.partial exists, from a run that goes on or that died; delete it"):
        mdm.run_with_denoising_cache(CANVAS, folder=tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="link exists; give a new folder"):
        mdm.run_with_denoising_cache(CANVAS, folder=tmp_path / "link")


def test_files_of_a_run_are_readable_as_the_umask_says(mdm, tmp_path):
    (tmp_path / "plain").touch()
    mdm.denoise(CANVAS).save(tmp_path / "run")
    mdm.run_with_denoising_cache(CANVAS, names_filter="blocks.0.hook_out", folder=tmp_path / "cache")
    modes = {path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


def test_no_string_of_a_result_runs_in_a_notebook(mdm):
    table = pd.DataFrame({EVIL: [EVIL]})
    assert "<img" not in TrajectoryStatistics(table, table, table, table)._repr_html_()
    trajectory = mdm.denoise(CANVAS)
    object.__setattr__(trajectory.settings, "select", EVIL)
    assert "<img" not in trajectory._repr_html_() and "&lt;img" in trajectory._repr_html_()
