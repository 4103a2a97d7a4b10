"""`component_masses`: what flows out of every component, and what flows into it, in several models.

*Source mass* of a component is Σ|score| of the edges that leave it, *sink mass* of those that enter it. Both are over all edges, and are
fractions of Σ|score| of all edges of the model, so that the models' scales do not matter. The *signed* masses sum the scores themselves, as
fractions of the same total: where they are small beside the absolute ones, edges for and against the answer cancel. An edge into a group of
keys or values is shared equally by the group's heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.attribution.bootstrap import bootstrap, can_resample
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.graph import Graph, check_same_graph
from mechshift_tl.plotting import COLOURS, ROLE_NAMES, SYMBOLS, plain, style

#: What is summed of each component.
MASSES = ("source", "sink", "source signed", "sink signed")
#: Components that a figure shows.
SHOWN = 16


@dataclass(frozen=True, eq=False)
class ComponentMasses(Artefact):
    """Masses of every component in every model.

    - `masses (value_low_high, roles, kinds, n_components)`: source, sink, and both signed (`MASSES`), as fractions of the model's Σ|score|.
      The first entry is of the prompts as they are; low and high bound 95 % over draws of them, where there are draws.
    - `components`, `layers`: their ids and layers. `n`: prompts.
    """

    KIND: ClassVar[str] = "component masses"

    task: str
    roles: tuple[str, ...]
    components: list[str]
    layers: list[int]
    masses: Float[Tensor, "value_low_high roles kinds n_components"] = field(repr=False)
    n: int

    def of(self, mass: str, role: str) -> Float[Tensor, " n_components"]:
        """One mass of every component. Raises ValueError on a mass or role that there is not."""
        if mass not in MASSES or role not in self.roles:
            raise ValueError(f"masses: no {mass!r} of {role!r}; choose from {', '.join(MASSES)} and {', '.join(self.roles)}")
        return self.masses[0, self.roles.index(role), MASSES.index(mass)]

    def finding(self) -> str:
        """The largest source and sink of each model, and how much of the models' masses lies in the same components."""
        largest = [f"{ROLE_NAMES[role]} {self._largest('source', role)}, {self._largest('sink', role)}" for role in self.roles]
        found = f"Largest source and sink: {'; '.join(largest)} (n = {self.n})."
        others = [role for role in self.roles if role != "arm"]
        shared = [f"{ROLE_NAMES[role]} {self.shared('source', role):.2f}, {self.shared('sink', role):.2f}" for role in others]
        return f"{found} Of its source and sink mass, each shares with the ARM: {'; '.join(shared)}." if shared else found

    def shared(self, mass: str, role: str, against: str = "arm") -> float:
        """Σ min of two models' masses, each scaled to sum 1: 1 where they are alike, 0 where no component has both."""
        a, b = (self.of(mass, one).double() for one in (role, against))
        return torch.minimum(a / a.sum(), b / b.sum()).sum().item()

    def _largest(self, mass: str, role: str) -> str:
        values = self.of(mass, role)
        return f"{self.components[int(values.argmax())]} ({values.max().item():.2f})"

    def to_dataframe(self) -> pd.DataFrame:
        """One row per component and model, in the model's order: layer, then each mass with its low and high over prompts."""
        rows = []
        for i, role in enumerate(self.roles):
            columns: dict[str, object] = {"component": self.components, "layer": self.layers, "model": ROLE_NAMES[role]}
            for j, mass in enumerate(MASSES):
                ends = zip(("", " low", " high"), self.masses[:, i, j].tolist(), strict=False)
                columns |= {f"{mass}{end}": values for end, values in ends}
            rows.append(pd.DataFrame(columns))
        return pd.concat(rows, ignore_index=True)

    def figure(self) -> go.Figure:
        """Source and sink mass of the largest components, a mark per model, with 95 % over prompts."""
        order = self.masses[0, :, :2].sum((0, 1)).argsort(descending=True)[:SHOWN].tolist()
        figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=["Source mass", "Sink mass"])
        for i, role in enumerate(self.roles):
            for j in (0, 1):
                _marks(figure, j + 1, role, [plain(self.components[one]) for one in order], self.masses[:, i, j, order])
        figure.update_yaxes(type="category", autorange="reversed")
        figure.update_xaxes(title_text="fraction of the model's Σ|score|", rangemode="tozero")
        return style(figure, 130 + 22 * len(order), margin={"l": 60, "r": 16, "t": 80, "b": 48}, legend_y=1.07)

    def _repr_html_(self) -> str:
        return card("ComponentMasses", f"{self.task} {self.finding()}", self.to_dataframe().head(SHOWN))


def component_masses(scores: Mapping[str, EdgeScores], *, task: str = "", n_boot: int = 200, seed: int = 0) -> ComponentMasses:
    """Source and sink masses in several models, by role. Raises ValueError on graphs that differ and on scores that are all 0."""
    roles, (first, *others) = tuple(scores), scores.values()
    for role, one in scores.items():
        check_same_graph(first.graph, one.graph)
        if not one.matrix.any():
            raise ValueError(f"component_masses: every score of {role!r} is 0; there is no mass to share")
    found = _masses(first, *others)[None]
    if n_boot and can_resample(first, *others):
        drawn = torch.stack(bootstrap(_masses, first, *others, n_boot=n_boot, seed=seed))
        found = torch.cat([found, drawn.quantile(torch.tensor([0.025, 0.975]), 0)])
    graph = first.graph
    return ComponentMasses(task, roles, graph.components, graph.writer_layers[1:].tolist(), found, first.n_examples)


def masses(matrix: Float[Tensor, "n_writers n_readers"], graph: Graph) -> Float[Tensor, "kinds n_components"]:
    """`MASSES` of every component, as fractions of Σ|score|."""
    found = []
    for values in (matrix.abs(), matrix):
        found += [values.sum(1)[1:], (values.sum(0) @ graph.membership)[1:]]
    return torch.stack(found) / matrix.abs().sum()


def _masses(*scores: EdgeScores) -> Float[Tensor, "roles kinds n_components"]:
    return torch.stack([masses(one.matrix, one.graph) for one in scores])


def _marks(figure: go.Figure, column: int, role: str, names: list[str], masses: Float[Tensor, "value_low_high shown"]) -> None:
    """One model's marks in one panel."""
    value, *ends = masses
    # plotly takes distances from the value, not ends
    reach = [(end - value).abs().tolist() for end in ends]
    error = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 0, "array": reach[1], "arrayminus": reach[0]} if reach else None
    figure.add_scatter(
        x=value.tolist(), y=names, mode="markers", name=ROLE_NAMES[role], legendgroup=role, showlegend=column == 1, error_x=error,
        marker={"color": COLOURS[role], "symbol": SYMBOLS[role], "size": 9},
        hovertemplate=f"{ROLE_NAMES[role]} %{{y}}: %{{x:.3f}}<extra></extra>", row=1, col=column,
    )  # fmt: skip
