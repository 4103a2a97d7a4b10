"""Do the steps of a denoising run use one circuit? Each step's own circuit, held against the circuit of all steps together."""

from __future__ import annotations

import pandas as pd

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard


def step_overlaps(scores: EdgeScores, whole: Circuit) -> pd.DataFrame:
    """One row per step of `scores`, whose circuit has as many edges as `whole` was asked for.

    step; n_read (positions read); components_shared: the share in [0, 1] of the step circuit's components that `whole` has; edge_jaccard.
    """
    rows = []
    for step, n_read in zip(scores.steps, scores.n_read, strict=True):
        one = Circuit.from_scores(scores.step(step), whole.requested)
        rows.append(
            {"step": step, "n_read": n_read, "components_shared": _shared_components(one, whole), "edge_jaccard": edge_jaccard(one, whole)}
        )
    return pd.DataFrame(rows)


def _shared_components(one: Circuit, whole: Circuit) -> float:
    """The share of the components of `one` that `whole` has; 0 where `one` is empty."""
    mine, all_of_them = (set(circuit.components["component"]) for circuit in (one, whole))
    return len(mine & all_of_them) / max(1, len(mine))
