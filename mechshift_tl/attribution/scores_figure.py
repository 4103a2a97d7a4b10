"""The picture of edge scores: where their mass lies, from layer to layer, beside the strongest edges by name."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mechshift_tl.component_grid import signed_bars
from mechshift_tl.graph import Graph
from mechshift_tl.plotting import SEQUENTIAL, SIZE, style


def draw_edges(matrix: Float[Tensor, "n_writers n_readers"], graph: Graph, strongest: pd.DataFrame) -> go.Figure:
    """Σ|score| by the layers of writer and reader (left), and the `strongest` edges (right)."""
    figure = make_subplots(1, 2, column_widths=[0.55, 0.45], horizontal_spacing=0.3)
    layers = [str(layer) for layer in range(graph.n_layers)]
    bar = {"title": {"text": "Σ|score|", "font": {"size": SIZE}}, "thickness": 10, "outlinewidth": 0, "x": 0.4, "len": 1.0}
    figure.add_heatmap(
        z=layer_masses(matrix, graph).numpy(), x=[*layers, "logits"], y=["input", *layers], colorscale=SEQUENTIAL, zmin=0, colorbar=bar,
        hovertemplate="layer %{y} → %{x}: Σ|score| %{z:.3g}<extra></extra>", row=1, col=1,
    )  # fmt: skip
    names = [f"{writer} → {reader}" for writer, reader in zip(strongest["writer"], strongest["reader"], strict=True)]
    figure.add_trace(signed_bars(names, strongest["score"].tolist()), row=1, col=2)
    dense = {"type": "category", "showgrid": False, "nticks": 18}
    figure.update_xaxes(title_text="layer of the reader", **dense, col=1)
    figure.update_yaxes(title_text="layer of the writer", autorange="reversed", **dense, col=1)
    figure.update_xaxes(title_text="score, per position read", col=2)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, col=2)
    return style(figure, 130 + 18 * max(12, len(strongest)))


def layer_masses(matrix: Float[Tensor, "n_writers n_readers"], graph: Graph) -> Float[Tensor, "layers_plus_1 layers_plus_1"]:
    """Σ|score| by the writer's layer (rows; the input first) and the reader's (columns; the logits last)."""
    size = graph.n_layers + 1
    by_writer = matrix.new_zeros(size, graph.shape[1]).index_add(0, graph.writer_layers + 1, matrix.abs())
    return by_writer.new_zeros(size, size).index_add(1, graph.reader_layers, by_writer)
