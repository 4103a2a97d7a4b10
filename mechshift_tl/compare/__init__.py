"""Compare two circuits: what they share, and where in depth they sit, beside what chance gives and what a model shares with itself."""

from mechshift_tl.compare.comparison import compare
from mechshift_tl.compare.result import CircuitComparison

__all__ = ["CircuitComparison", "compare"]
