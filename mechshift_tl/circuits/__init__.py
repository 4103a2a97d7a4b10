"""Circuits: the strongest edges of an attribution on a path from input to logits; random ones, files; runs, faithfulness, evaluation."""

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.curve import faithfulness_curve
from mechshift_tl.circuits.evaluate import evaluate_circuit
from mechshift_tl.circuits.faithfulness import faithfulness
from mechshift_tl.circuits.files import read_graph, read_graph_scores, write_graph
from mechshift_tl.circuits.random import random_circuit
from mechshift_tl.circuits.run import run_circuit, run_circuits

__all__ = [
    "Circuit", "evaluate_circuit", "faithfulness", "faithfulness_curve", "random_circuit", "read_graph", "read_graph_scores",
    "run_circuit", "run_circuits", "write_graph",
]  # fmt: skip
