"""Attribution: how much each edge, node or neuron adds to a behaviour."""

from mechshift_tl.attribution.attribute import attribute
from mechshift_tl.attribution.scores import EdgeScores, NodeScores

__all__ = ["EdgeScores", "NodeScores", "attribute"]
