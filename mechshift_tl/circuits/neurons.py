"""Whether the neurons of two models' MLPs stand in the same places.

Two neurons are as similar as the mean of two cosines: between what they read (their columns of W_in) and between what they write (their
rows of W_out). A training that goes on from a model's weights leaves most neurons most similar to themselves. Where neurons have changed
places, each is most similar to another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.bridge.protocol import HookedModel, components_of
from mechshift_tl.bridge.weights import weight_of
from mechshift_tl.graph import Graph, check_same_graph
from mechshift_tl.plotting import COLOURS, style

#: Above this width, the assignment (its cost grows with the cube of the width) gives way to each neuron's most similar one.
MAX_ASSIGNED = 4096


@dataclass(frozen=True, eq=False)
class NeuronMatching(Artefact):
    """For every neuron of model b, the neuron of the same layer of model a that it is matched with.

    - `image (n_layers, d_mlp)`: that neuron's index. `similarity`, `own (n_layers, d_mlp)`: the similarity to it, and to the neuron of the
      same id, in [−1, 1].
    """

    KIND: ClassVar[str] = "neuron matching"

    image: Int[Tensor, "n_layers d_mlp"]
    similarity: Float[Tensor, "n_layers d_mlp"]
    own: Float[Tensor, "n_layers d_mlp"]

    @property
    def own_share(self) -> float:
        """Share of the neurons, in [0, 1], that are matched with the neuron of their own id."""
        return (self.image == torch.arange(self.image.shape[1])).double().mean().item()

    @property
    def mean_similarity(self) -> float:
        """Mean similarity to the neuron that each is matched with."""
        return self.similarity.double().mean().item()

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer: layer, own_share, similarity (to the match), own_similarity (to the same id)."""
        own = self.image == torch.arange(self.image.shape[1])
        shares = {"own_share": own.double().mean(1).tolist(), "similarity": self.similarity.mean(1).tolist()}
        return pd.DataFrame({"layer": range(len(self.image)), **shares, "own_similarity": self.own.mean(1).tolist()})

    def figure(self) -> go.Figure:
        """By layer: the share of neurons matched with their own id, mean similarity to the match, and to the same id."""
        figure, table = go.Figure(), self.to_dataframe()
        names = {"own_share": "matched with their own id", "similarity": "similarity to the match", "own_similarity": "to the same id"}
        for (column, name), dash in zip(names.items(), ("solid", "dash", "dot"), strict=True):
            line = {"color": COLOURS["mdm"], "dash": dash}
            figure.add_scatter(x=table["layer"].tolist(), y=table[column].tolist(), mode="lines+markers", name=name, line=line)
        figure.update_xaxes(title_text="layer")
        return style(figure, 320)

    def _repr_html_(self) -> str:
        return card("NeuronMatching", f"{self.own_share:.0%} of the neurons are matched with their own id", self.to_dataframe())


@torch.no_grad()
def match_neurons(a: HookedModel, b: HookedModel) -> NeuronMatching:
    """The neurons of every layer matched by their weights: by linear assignment, or in layers wider than `MAX_ASSIGNED` each with its most
    similar one. Raises ValueError where the graphs differ."""
    graph = Graph.of(a)
    check_same_graph(graph, Graph.of(b))
    images, similarities, own = [], [], []
    for layer in range(graph.n_layers):
        alike = _similarity(*(_weights(model, layer) for model in (a, b)))
        width = len(alike)
        image = torch.tensor(linear_sum_assignment(alike.numpy(), maximize=True)[1]) if width <= MAX_ASSIGNED else alike.argmax(1)
        images.append(image)
        similarities.append(alike[torch.arange(width), image])
        own.append(alike.diagonal())
    return NeuronMatching(torch.stack(images), torch.stack(similarities), torch.stack(own))


def _weights(model: HookedModel, layer: int) -> tuple[Float[Tensor, "d_mlp d"], Float[Tensor, "d_mlp d"]]:
    mlp = components_of(model).blocks[layer].mlp
    return F.normalize(weight_of(mlp, "W_in").float().T, dim=1), F.normalize(weight_of(mlp, "W_out").float(), dim=1)


def _similarity(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Float[Tensor, "d_mlp d_mlp"]:
    """Rows are neurons of b, columns neurons of a."""
    return torch.stack([y @ x.T for x, y in zip(a, b, strict=True)]).mean(0).cpu()
