"""Models whose circuit is known, and how well each method finds it."""

from mechshift_tl.truth.load import load_truth, truths
from mechshift_tl.truth.measure import measure_truth, measure_truths
from mechshift_tl.truth.result import TruthTable
from mechshift_tl.truth.truth import Truth

__all__ = ["Truth", "TruthTable", "load_truth", "measure_truth", "measure_truths", "truths"]
