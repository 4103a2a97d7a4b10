"""What a comparison of an ARM's and an MDM's circuits must say where the method that found them is less valid on the MDM."""

from __future__ import annotations

from mechshift_tl.evaluation.validity.result import Validity
from mechshift_tl.intervals import interval


def validity_note(arm: Validity, mdm: Validity, method: str | None = None) -> str | None:
    """One sentence to print beside an overlap of the two models' circuits, or None where `method` is as valid on the MDM as on the ARM.

    It says by how much the method's Spearman correlation with exact patching, over all edges measured, is lower on the MDM, and whether
    that is supported: whether the difference's 95 % interval over prompts excludes 0. `method` is by default the one that ranked the edges.
    Prompts are drawn together, so both must have been measured on the same ones; raises ValueError where they differ in number.
    """
    name: str = method or arm.settings["rank_by"]
    if arm.n_examples != mdm.n_examples:
        raise ValueError(f"validity_note: {arm.n_examples} and {mdm.n_examples} examples; measure both models on the same prompts")
    on_arm, on_mdm = (validity.draws(name) for validity in (arm, mdm))
    n = min(len(on_arm), len(on_mdm))
    lower, *draws = (on_arm[:n] - on_mdm[:n]).tolist()
    if not lower > 0:
        return None
    over = interval(draws)
    what = (
        f"{name} follows exact patching less closely in the MDM than in the ARM: Spearman {on_mdm[0]:.2f} and {on_arm[0]:.2f}, "
        f"{lower:.2f} lower (95 % over prompts {over.low:.2f} to {over.high:.2f})"
    )
    if over.low > 0:
        return f"Supported: {what}; part of what the two circuits do not share may be the method's error."
    return f"Not supported: {what}."
