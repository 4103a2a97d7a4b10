"""Attribution: what each writer passes to each reader, and how much of the behaviour it carries."""

from mechshift_tl.attribution.attribute import attribute
from mechshift_tl.attribution.scores import EdgeScores, NodeScores

__all__ = ["EdgeScores", "NodeScores", "attribute"]
