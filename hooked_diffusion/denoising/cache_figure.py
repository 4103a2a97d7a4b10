"""The picture of a denoising cache: how far an activation of every layer moves from one recorded step to the next."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
import torch
from transformer_lens import ActivationCache

from hooked_diffusion.plotting import SEQUENTIAL, SIZE, plain, style


def draw_changes(caches: Mapping[int, ActivationCache], name: str, row: int) -> go.Figure:
    """What `DenoisingCache.figure` promises."""
    first = next(iter(caches.values())).cache_dict if caches else {}
    layers = [layer for layer in range(sum(one.startswith("blocks.") for one in first)) if f"blocks.{layer}.{name}" in first]
    if len(caches) < 2 or not layers:
        raise ValueError(f"figure: the cache holds {len(caches)} steps and {len(layers)} layers of {name!r}; record two steps of it")
    moved = torch.stack([_change(caches, f"blocks.{layer}.{name}", row) for layer in layers])
    bar = {"title": {"text": "change since<br>the step before", "font": {"size": SIZE}}, "thickness": 12, "outlinewidth": 0}
    figure = go.Figure(
        go.Heatmap(
            z=moved.numpy(), x=[str(step) for step in list(caches)[1:]], y=layers, colorscale=SEQUENTIAL, zmin=0, colorbar=bar,
            hovertemplate="layer %{y}, step %{x}: %{z:.3f} of its length<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title_text="step", type="category", showgrid=False)
    figure.update_yaxes(title_text=f"layer ({plain(name)})", showgrid=False, dtick=max(1, len(layers) // 16))
    return style(figure, 160 + 14 * max(8, len(layers)))


def _change(caches: Mapping[int, ActivationCache], name: str, row: int) -> torch.Tensor:
    """`(steps − 1,)`: length of the change of the row's activation, as a share of its length before."""
    rows = [cache[name][row].float().flatten() for cache in caches.values()]
    return torch.stack([(b - a).norm() / a.norm().clamp(min=1e-12) for a, b in zip(rows, rows[1:], strict=False)]).cpu()
