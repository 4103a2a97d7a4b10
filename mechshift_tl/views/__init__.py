"""Views of single components: what they say on their own, which prompts move them, and how specialised they are."""

from mechshift_tl.views.lens import component_lens
from mechshift_tl.views.lens_table import ComponentLens
from mechshift_tl.views.neurons import NeuronActivations, neuron_activations

__all__ = ["ComponentLens", "NeuronActivations", "component_lens", "neuron_activations"]
