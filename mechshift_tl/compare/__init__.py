"""What two circuits share and where in depth each sits, between chance and what the same model shares with itself."""

from mechshift_tl.compare.comparison import compare
from mechshift_tl.compare.result import CircuitComparison

__all__ = ["CircuitComparison", "compare"]
