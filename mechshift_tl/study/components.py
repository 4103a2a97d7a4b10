"""Measurements of single components: how specialised they are, what the top heads attend to, which early neurons tell
prompts apart, what shared and single components say over steps, and one prompt denoised."""

from __future__ import annotations

from collections import Counter

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.compare.attention import AttentionComparison, compare_attention
from mechshift_tl.compare.lens_result import LensComparison
from mechshift_tl.compare.lens_sets import compare_lenses, component_sets
from mechshift_tl.compare.neuron_result import NeuronComparison, NeuronComparisonSettings
from mechshift_tl.compare.neurons import compare_neurons
from mechshift_tl.compare.specialisation import SpecialisationComparison, compare_specialisation
from mechshift_tl.study.measurement import Measurement
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.views.playback import Playback, play

#: Heads of each model whose attention is read.
TOP_HEADS = 6
#: Components of each circuit whose lenses are compared.
TOP_COMPONENTS = 10


def _specialisation(parts: TaskParts) -> SpecialisationComparison:
    sizes = parts.models["arm"].cfg
    return compare_specialisation(parts.lenses, d_vocab=sizes.d_vocab, n_boot=_draws(parts), seed=parts.config.seed)


def _attention(parts: TaskParts) -> AttentionComparison:
    top = {role: top_heads(circuit, TOP_HEADS) for role, circuit in parts.circuits.items()}
    return compare_attention(
        parts.models, parts.pool.readouts, top, n_boot=_draws(parts), seed=parts.config.seed, tokenizer=parts.tokenizer
    )


def _neurons(parts: TaskParts) -> NeuronComparison:
    config = parts.config
    cut = config.early_layers(parts.models["arm"].cfg.n_layers)
    settings = NeuronComparisonSettings(tuple(range(cut)), ig_steps=config.ig_steps, n_boot=_draws(parts), seed=config.seed)
    return compare_neurons(parts.models, parts.pool.readouts, settings, tokenizer=parts.tokenizer)


def _lenses(parts: TaskParts) -> LensComparison:
    sets = component_sets(parts.circuits["arm"], parts.circuits["mdm"], TOP_COMPONENTS)
    return compare_lenses(
        parts.models, parts.pool.readouts, parts.lenses, sets, n_boot=_draws(parts), seed=parts.config.seed, tokenizer=parts.tokenizer
    )


def _playback(parts: TaskParts) -> Playback:
    heads = top_heads(parts.circuits["mdm"], TOP_HEADS)
    return play(parts.models["mdm"], parts.pool.examples[0], parts.tokenizer, heads, solved=parts.task.solved)


def _has_groups(parts: TaskParts) -> bool:
    """Whether two groups have two prompts each: else there is nothing to tell apart."""
    return sum(size > 1 for size in Counter(parts.pool.readouts["arm"].groups).values()) > 1


def top_heads(circuit: Circuit, k: int) -> list[str]:
    """The `k` heads of a circuit of largest s(v), strongest first; fewer where it has fewer."""
    return [name for name in circuit.components["component"] if ".h" in name][:k]


def _has_heads(parts: TaskParts) -> bool:
    return all(top_heads(circuit, 1) for circuit in parts.circuits.values())


def _denoises(parts: TaskParts) -> bool:
    return "mdm" in parts.models and parts.models["mdm"].spec.mask_token_id is not None


def _draws(parts: TaskParts) -> int:
    """Draws of the prompts; one where a study asks for none, since a result holds intervals."""
    return max(1, parts.config.n_boot)


SPECIALISATION = Measurement(
    "specialisation", "Specialisation", "Is the work spread over more components after diffusion training, and do they name the answer?",
    "specialisation.json", SpecialisationComparison.load, _specialisation, quick=True,
)  # fmt: skip
ATTENTION = Measurement(
    "attention", "Attention of the top heads", "What do the heads that carry the task attend to, and does the same head attend alike?",
    "attention.safetensors", AttentionComparison.load, _attention, _has_heads, quick=True,
)  # fmt: skip
NEURONS = Measurement(
    "neurons", "Early neurons, side by side", "Which neurons of early layers tell prompt groups apart, and is it the same neuron in each?",
    "early_neurons.safetensors", NeuronComparison.load, _neurons, _has_groups,
)  # fmt: skip
LENSES = Measurement(
    "lens_of_sets", "Lens of shared and single components",
    "Is the MDM's lens flatter, does it sharpen over steps, does it hang on one step?",
    "lens_of_sets.json", LensComparison.load, _lenses,
)  # fmt: skip
PLAYBACK = Measurement(
    "playback", "Denoising, step by step",
    "How is one prompt filled in: in which order, how surely, and from which depth on is a token known?",
    "playback.safetensors", Playback.load, _playback, _denoises, quick=True,
)  # fmt: skip
