"""Measurements of where circuits lie: in which layers, at which components."""

from __future__ import annotations

from torch import Tensor

from hooked_diffusion.attention import Direction
from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.similarity import best_layers
from mechshift_tl.compare.depth_result import DepthShares
from mechshift_tl.compare.depth_shares import depth_shares
from mechshift_tl.compare.masses import ComponentMasses, component_masses
from mechshift_tl.compare.row_groups import RowGroups, half_labels, step_labels
from mechshift_tl.compare.step_circuits import group_overlaps
from mechshift_tl.compare.step_result import StepCircuits
from mechshift_tl.compare.weights_by_masks import weights_by_masks
from mechshift_tl.compare.weights_by_masks_result import Key, WeightsByMasks
from mechshift_tl.evaluation.faithfulness import NoGap
from mechshift_tl.evaluation.layer_losses import layer_losses
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.readouts.kinds import row_kinds
from mechshift_tl.readouts.pool import Pool, read_correctly
from mechshift_tl.study.measurement import Measurement
from mechshift_tl.study.parts import TaskParts

DIRECTIONS: tuple[Direction, ...] = ("causal", "full")
#: Rows that are attributed once more, at most: a prompt has one per step.
MAX_ROWS = 240
#: Rows on which every layer is patched, at most.
LAYER_ROWS = 130
#: Draws of the prompts behind the intervals of steps, at most: each cuts a circuit per step.
STEP_DRAWS = 50


def measure_depth(parts: TaskParts) -> DepthShares:
    """Depth by scores and, where prompts were held out, by function; layers are aligned by weights (`circuits.similarity`).

    Cost: the held-out prompts once per layer and model, and a circuit per model and draw.
    """
    config = parts.config
    held_out = parts.held_out.within(LAYER_ROWS) if parts.held_out else None
    losses, notes = _losses(parts, held_out)
    nearest = {role: best_layers(parts.models["arm"], model) for role, model in parts.models.items() if role != "arm"}
    return depth_shares(
        parts.scores, parts.circuits, losses, task=parts.name, cut=config.cut, best_layers=nearest, n_boot=config.n_boot,
        seed=config.seed, n_held_out=len(held_out) if held_out else 0, notes=notes,
    )  # fmt: skip


def _losses(parts: TaskParts, held_out: Pool | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What each model loses without each layer, by role, and a note on every model of which that has no meaning."""
    losses: dict[str, Tensor] = {}
    notes: list[str] = []
    for role, rows in held_out.readouts.items() if held_out else ():
        parts.progress(f"layers of the {ROLE_NAMES[role]}")
        try:
            losses[role] = layer_losses(parts.models[role], rows, n_boot=parts.config.n_boot, seed=parts.config.seed)
        except NoGap as error:
            notes.append(f"{ROLE_NAMES[role]}: {error}")
    return losses, tuple(notes)


def measure_steps(parts: TaskParts) -> StepCircuits:
    """Circuits of every step, kind of position, and of early and late steps, in each model.

    Cost: one more attribution of at most `MAX_ROWS` rows per model, and a circuit per group and draw.
    """
    pool, found = parts.pool.within(MAX_ROWS), []
    for role, model in parts.models.items():
        parts.progress(f"steps of the {ROLE_NAMES[role]}")
        rows = pool.readouts[role]
        scores = attribute_edges(model, rows.by_row(), parts.config.attribution)
        kinds = row_kinds(rows, pool.examples, parts.task, parts.tokenizer)
        for family, labels in {"step": step_labels(rows), "kind": kinds, "half": half_labels(rows)}.items():
            groups = RowGroups.of(scores, rows, labels)
            chosen, n_boot = parts.circuits[role].selection, min(parts.config.n_boot, STEP_DRAWS)
            found.append(group_overlaps(groups, chosen, role=role, family=family, n_boot=n_boot, seed=parts.config.seed))
    return StepCircuits(parts.name, tuple(one for one in found if one is not None))


def has_steps(parts: TaskParts) -> bool:
    """Whether any model is read at more than one step."""
    return any(len(rows.steps) > 1 for rows in parts.pool.readouts.values())


def measure_masks(parts: TaskParts) -> WeightsByMasks:
    """Every model's circuit and accuracy under the causal and the full mask. A canvas that holds the answer is hidden from the read on.

    Cost: one more attribution of at most `MAX_ROWS` rows per model; under its own mask a model has its scores already.
    """
    pool, config = parts.pool.within(MAX_ROWS), parts.config
    scores: dict[Key, EdgeScores] = {}
    accuracy: dict[Key, float] = {}
    for role, model in parts.models.items():
        rows = pool.readouts[role] if model.spec.is_mdm else pool.readouts[role].hiding_what_follows()
        for direction in DIRECTIONS:
            parts.progress(f"{ROLE_NAMES[role]} under {direction} attention")
            with model.attention(direction):
                own = direction == model.spec.attention
                scores[role, direction] = (
                    parts.scores[role].select(range(len(pool))) if own else attribute_edges(model, rows, config.attribution)
                )
                accuracy[role, direction] = read_correctly(model, rows, correct=parts.task.correct).float().mean().item()
    return weights_by_masks(scores, accuracy, n=config.edges, task=parts.name, n_boot=config.n_boot, seed=config.seed)


def measure_masses(parts: TaskParts) -> ComponentMasses:
    """Source and sink masses of every component."""
    return component_masses(parts.scores, task=parts.name, n_boot=parts.config.n_boot, seed=parts.config.seed)


STEPS = Measurement(
    name="steps",
    title="Steps",
    question="Do denoising steps use one circuit, as answer positions of the ARM do, and do early and late steps differ?",
    file="steps.json",
    load=StepCircuits.load,
    make=measure_steps,
    applies=has_steps,
)
MASKS = Measurement(
    name="masks",
    title="Weights and masks",
    question="How much of the shift does the attention mask make by itself, and how much training?",
    file="masks.safetensors",
    load=WeightsByMasks.load,
    make=measure_masks,
)
DEPTH = Measurement(
    name="depth",
    title="Depth",
    question="Does the MDM do more of the task in early layers than the ARM, and more than further training alone explains?",
    file="depth.safetensors",
    load=DepthShares.load,
    make=measure_depth,
    quick=True,
)
MASSES = Measurement(
    name="masses",
    title="Sources and sinks",
    question="Which components send, and which receive, and are they the same in each model?",
    file="masses.safetensors",
    load=ComponentMasses.load,
    make=measure_masses,
    quick=True,
)
