"""What two models have in common besides circuits: whether both do the task, and whether neurons and layers are where they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.neurons import match_neurons
from mechshift_tl.circuits.similarity import best_layers
from mechshift_tl.plotting import COLOURS, QUIET, style
from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts.pool import read_correctly
from mechshift_tl.tasks.task import Correct


@dataclass(frozen=True)
class Likeness(JsonArtefact):
    """Two models side by side, on `n` prompts.

    - `accuracy`: share of these prompts, in [0, 1], that each model reads correctly, by role.
    - `neurons_in_place`: share of the MLP neurons, in [0, 1], whose weights are matched with the neuron of their own id
      (`circuits.neurons`); `neuron_similarity`: mean similarity to the match, in [−1, 1].
    - `layers`: for every layer of the second model, the first one's layer that its weights are most like; None: it writes nothing.
    """

    KIND: ClassVar[str] = "likeness"

    n: int
    accuracy: dict[str, float]
    neurons_in_place: float
    neuron_similarity: float
    layers: tuple[int | None, ...]

    @classmethod
    def of(cls, models: Mapping[str, HookedModel], readouts: Mapping[str, Readouts], correct: Correct = "first") -> Likeness:
        """Of two models by role, with their readouts of the same examples. Raises ValueError where the graphs differ."""
        a, b = models.values()
        right = {role: read_correctly(model, readouts[role], correct=correct) for role, model in models.items()}
        neurons = match_neurons(a, b)
        accuracy = {role: one.double().mean().item() for role, one in right.items()}
        n = len(next(iter(right.values())))
        return cls(n, accuracy, neurons.own_share, neurons.mean_similarity, tuple(best_layers(a, b)))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer of the second model: layer, and the first model's layer that it is most like (−1: it writes nothing)."""
        return pd.DataFrame({"layer": range(len(self.layers)), "most_like": [-1 if one is None else one for one in self.layers]})

    def figure(self) -> go.Figure:
        """For every layer of the second model, the first one's that it is most like; on the line: in place."""
        figure, table = go.Figure(), self.to_dataframe().query("most_like >= 0")
        ends = [0, len(self.layers) - 1]
        line = {"color": QUIET, "width": 1, "dash": "dash"}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, name="in place", hoverinfo="skip")
        marker = {"color": COLOURS["mdm"], "size": 9, "symbol": "diamond"}
        figure.add_scatter(x=table["layer"].tolist(), y=table["most_like"].tolist(), mode="markers", marker=marker, name="most like")
        figure.update_xaxes(title_text="layer of the second model")
        figure.update_yaxes(title_text="layer of the first model")
        return style(figure, 320)

    def _repr_html_(self) -> str:
        accuracy = ", ".join(f"{role} {share:.0%}" for role, share in self.accuracy.items())
        return card("Likeness", f"{self.n} prompts read correctly by {accuracy}; {self.neurons_in_place:.0%} of the neurons in place")

    @property
    def moved_layer(self) -> int | None:
        """The first layer that is most like another one; None where all layers are in place."""
        return next((i for i, layer in enumerate(self.layers) if layer is not None and layer != i), None)
