"""Circuits of autoregressive and masked-diffusion language models, found, compared and reported.

The names of the main job are here, imported when they are first asked for: torch takes seconds, and `mechshift --help` does without. All
else is imported from where it lives, `readouts` and `compare` too: `from mechshift_tl.readouts import readouts`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mechshift_tl.attribution.attribute import attribute
    from mechshift_tl.attribution.scores import EdgeScores
    from mechshift_tl.circuits.circuit import Circuit
    from mechshift_tl.evaluation.curve import faithfulness_curve
    from mechshift_tl.evaluation.evaluate import evaluate_circuit
    from mechshift_tl.evaluation.run import run_circuit
    from mechshift_tl.evaluation.validity.measure import validity
    from mechshift_tl.readouts.rows import Readouts
    from mechshift_tl.study.config import StudyConfig
    from mechshift_tl.study.run import run_study
    from mechshift_tl.tasks.prompts import Prompts
    from mechshift_tl.views.lens import component_lens
    from mechshift_tl.views.neurons import neuron_activations

__all__ = [
    "Circuit",
    "EdgeScores",
    "Prompts",
    "Readouts",
    "StudyConfig",
    "attribute",
    "component_lens",
    "evaluate_circuit",
    "faithfulness_curve",
    "neuron_activations",
    "run_circuit",
    "run_study",
    "validity",
]

_HOME = {
    "Circuit": "circuits.circuit",
    "EdgeScores": "attribution.scores",
    "Prompts": "tasks.prompts",
    "Readouts": "readouts.rows",
    "StudyConfig": "study.config",
    "attribute": "attribution.attribute",
    "component_lens": "views.lens",
    "evaluate_circuit": "evaluation.evaluate",
    "faithfulness_curve": "evaluation.curve",
    "neuron_activations": "views.neurons",
    "run_circuit": "evaluation.run",
    "run_study": "study.run",
    "validity": "evaluation.validity.measure",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({name for name in globals() if name.startswith("__")} | {*__all__})
