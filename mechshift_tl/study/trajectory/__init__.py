"""A study over training: a pair compared at every checkpoint on the way from the ARM to the MDM, and to the control."""

from mechshift_tl.study.trajectory.checkpoints import Checkpoint, TrainingRun
from mechshift_tl.study.trajectory.result import Trajectory
from mechshift_tl.study.trajectory.run import run_trajectory

__all__ = ["Checkpoint", "TrainingRun", "Trajectory", "run_trajectory"]
