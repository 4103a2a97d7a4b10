"""Views of single components: what each one says alone, which prompts its neurons tell apart, and how specialised the components are."""

from mechshift_tl.views.lens import component_lens
from mechshift_tl.views.lens_table import ComponentLens
from mechshift_tl.views.neurons import NeuronActivations, neuron_activations

__all__ = ["ComponentLens", "NeuronActivations", "component_lens", "neuron_activations"]
