"""Readouts: the token rows that a model runs, and the positions at which its logits are read."""

from mechshift_tl.bridge.alignment import aligned_logits, logit_shift, mask_token, spec_of
from mechshift_tl.readouts.batch import Batch, Side
from mechshift_tl.readouts.build import readouts
from mechshift_tl.readouts.checks import ABSENT
from mechshift_tl.readouts.rows import Readouts

__all__ = ["ABSENT", "Batch", "Readouts", "Side", "aligned_logits", "logit_shift", "mask_token", "readouts", "spec_of"]
