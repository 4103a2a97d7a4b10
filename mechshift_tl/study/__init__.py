"""Studies: the circuits of a pair of models, found, compared and tested on several tasks."""

from mechshift_tl.study.config import StudyConfig
from mechshift_tl.study.results import Study, TaskStudy
from mechshift_tl.study.run import run_study

__all__ = ["Study", "StudyConfig", "TaskStudy", "run_study"]
