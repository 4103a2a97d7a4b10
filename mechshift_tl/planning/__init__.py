"""Planning: what an analysis of a model will cost, from its shapes, without its weights."""

from mechshift_tl.planning.estimate import plan

__all__ = ["plan"]
