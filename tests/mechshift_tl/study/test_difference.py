"""Two studies side by side: what is the same is not listed, and only intervals that lie apart differ."""

from dataclasses import replace

import pytest

from mechshift_tl.compare.result import Statistic
from mechshift_tl.intervals import Interval
from mechshift_tl.study.difference import StudyDifference, difference


def test_a_study_does_not_differ_from_itself(study, tmp_path):
    found = difference(study, study)
    assert found.settings.empty and found.answers.empty and not found.overlaps["apart"].any() and not found.only_a + found.only_b
    assert found.finding() == (
        "0 of 0 answers differ, and 0 settings. Not supported: overlaps differ (0 of 2 have intervals over prompts that lie apart)."
    )
    found.save(tmp_path / "difference.json")
    assert StudyDifference.load(tmp_path / "difference.json").finding() == found.finding()


def test_overlaps_whose_intervals_lie_apart_differ(study, task_study):
    mdm = task_study.comparisons["mdm"]
    far = {"edge_jaccard": Statistic(0.99, Interval(0.99, 0.98, 1.0, 10))}
    near = {"edge_jaccard": Statistic(0.1, Interval(0.1, 0.05, 0.2, 10))}

    def with_mdm(statistic):
        moved = replace(mdm, statistics=mdm.statistics | statistic)
        return replace(study, tasks={task_study.task: replace(task_study, comparisons={"mdm": moved})}, config=replace(study.config, n=9))

    found = difference(with_mdm(near), with_mdm(far), ("first", "second"))
    assert found.overlaps["apart"].tolist() == [True]
    assert found.overlap_table()["first"].tolist() == ["0.100 [0.050, 0.200]"]
    assert "Supported: overlaps differ (1 of 1" in found.finding() and len(found.figure().data) == 2  # type: ignore[arg-type]
    assert difference(study, with_mdm(far)).settings["setting"].tolist() == ["n"]
    assert difference(study, with_mdm(far)).only_a == (f"{task_study.task}, ARM → control",)


def test_studies_without_a_common_task_are_refused(study, without_control):
    with pytest.raises(ValueError, match="no task is in both studies"):
        difference(study, without_control)
