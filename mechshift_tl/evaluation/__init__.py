"""Evaluation: what a circuit is worth when it runs with every other edge patched."""

from mechshift_tl.evaluation.curve import faithfulness_curve
from mechshift_tl.evaluation.evaluate import evaluate_circuit
from mechshift_tl.evaluation.faithfulness import faithfulness
from mechshift_tl.evaluation.run import run_circuit, run_circuits

__all__ = ["evaluate_circuit", "faithfulness", "faithfulness_curve", "run_circuit", "run_circuits"]
