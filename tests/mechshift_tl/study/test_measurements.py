"""The registry of measurements: chosen by name, made once, kept, read back, shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import pytest

from hooked_diffusion import load_pair
from hooked_diffusion.artefact import JsonArtefact
from mechshift_tl.report.sections import measured
from mechshift_tl.runs.stages import Stages
from mechshift_tl.study import StudyConfig, TaskStudy, run_study
from mechshift_tl.study.measurement import Measurement
from mechshift_tl.study.measurements import MEASUREMENTS, chosen, load_measured, measure, save_measured
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.tasks import IOI


@dataclass(frozen=True)
class Counted(JsonArtefact):
    """How many prompts a task has."""

    KIND: ClassVar[str] = "counted"

    n: int

    def finding(self) -> str:
        return f"{self.n} <b>prompts</b>"

    def figure(self) -> go.Figure:
        return go.Figure(go.Bar(x=["prompts"], y=[self.n]))

    def to_dataframe(self) -> pd.DataFrame:
        return pd.DataFrame({"n": [self.n]})


def counting(name: str, *, quick: bool = False, applies: bool = True) -> Measurement[Counted]:
    return Measurement(
        name, name.title(), "How many?", f"{name}.json", Counted.load, lambda parts: Counted(len(parts.pool)), lambda parts: applies, quick
    )


THREE = (counting("first", quick=True), counting("second"), counting("third", applies=False))


@pytest.mark.parametrize(
    ("asked", "names"),
    [("all", ["first", "second", "third"]), ("quick", ["first"]), ("none", []), (("third", "first"), ["first", "third"])],
)
def test_chosen_by_name_in_the_registry_s_order(asked, names):
    assert [one.name for one in chosen(StudyConfig(measurements=asked), THREE)] == names


def test_names_that_none_has_are_refused():
    with pytest.raises(ValueError, match="StudyConfig.measurements names 'fourth'; there are: first, second, third"):
        chosen(StudyConfig(measurements=("fourth",)), THREE)
    with pytest.raises(ValueError, match="give 'all', 'quick', 'none', or a list of names"):
        StudyConfig(measurements="some")  # type: ignore[arg-type]


def test_names_and_files_are_each_used_once():
    assert len({one.name for one in MEASUREMENTS}) == len({one.file for one in MEASUREMENTS}) == len(MEASUREMENTS)


@pytest.fixture(scope="module")
def parts() -> TaskParts:
    pair = load_pair("tiny")
    config = StudyConfig(n=4, ig_steps=1, n_boot=2, n_random=2, held_out=0, measurements="none")
    assert pair.tokenizer is not None
    one = run_study(pair, [IOI()], config).tasks["ioi"]
    return TaskParts(IOI(), pair.models, pair.tokenizer, config, one.pool, None, one.scores, one.circuits, one.lenses, lambda _: None)


def test_made_once_and_read_back(parts, tmp_path):
    found = measure(parts, Stages(tmp_path), THREE)
    assert found == {"first": Counted(4), "second": Counted(4)}  # the third does not apply
    (tmp_path / "first.json").write_text((tmp_path / "first.json").read_text().replace('"n": 4', '"n": 5'))
    assert measure(parts, Stages(tmp_path), THREE)["first"] == Counted(5)
    assert load_measured(tmp_path, THREE) == {"first": Counted(5), "second": Counted(4)}


def test_saved_like_the_rest_of_a_study(tmp_path):
    save_measured(tmp_path, {"second": Counted(7)}, THREE)
    assert load_measured(tmp_path, THREE) == {"second": Counted(7)}


def test_shown_escaped_in_the_report(parts):
    task = TaskStudy("ioi", parts.pool, {}, {}, {}, {}, {}, measured={"first": Counted(4)})
    (section,) = measured(task, THREE)
    assert (section.title, section.question, section.described) == ("First", "How many?", ["4 <b>prompts</b>"])
    assert section.table is not None and "<td>4</td>" in section.table
