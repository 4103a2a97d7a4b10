"""Validity: whether a method's scores say what the edges really do. Every method is held against exact patching, on any model."""

from mechshift_tl.evaluation.validity.measure import METHODS, validity
from mechshift_tl.evaluation.validity.result import Validity, validity_note

__all__ = ["METHODS", "Validity", "validity", "validity_note"]
