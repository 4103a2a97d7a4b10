"""Circuits: the strongest edges of an attribution on a path from input to logits; random circuits, overlap, files, picture."""

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.files import read_graph, read_graph_scores, write_graph
from mechshift_tl.circuits.random import random_circuit

__all__ = ["Circuit", "random_circuit", "read_graph", "read_graph_scores", "write_graph"]
