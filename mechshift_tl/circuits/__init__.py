"""Circuits: the strongest edges of an attribution that lie on a path from input to logits, and random ones to hold them against."""

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.random import random_circuit

__all__ = ["Circuit", "random_circuit"]
