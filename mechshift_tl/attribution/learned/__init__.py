"""Learned masks: a ranking of edges or nodes by gradient descent on runs in which they are live to some degree."""

from mechshift_tl.attribution.learned.learn import learn_masks
from mechshift_tl.attribution.learned.settings import MaskSettings

__all__ = ["MaskSettings", "learn_masks"]
