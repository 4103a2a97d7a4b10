"""Interventions: the outputs of the writers, and the outputs that replace them when a writer is patched."""

from mechshift_tl.interventions.outputs import WriterOutputs, run_both_sides, run_writers
from mechshift_tl.interventions.replaced import Intervention, WriterMeans, check_intervention, replaced, writer_means

__all__ = [
    "Intervention", "WriterMeans", "WriterOutputs", "check_intervention", "replaced", "run_both_sides", "run_writers", "writer_means",
]  # fmt: skip
