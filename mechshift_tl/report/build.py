"""A study as one self-contained HTML page.

1. Draw the figures, gather the tables and the claims, task by task.
2. Fill the template; everything that is not drawn here is escaped.
3. Put plotly.js into the page, once. The page's own policy forbids it to load anything, so it opens offline.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mechshift_tl.compare.result import CAVEAT
from mechshift_tl.intervals import judged
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.report import figures, tables
from mechshift_tl.report.measured import measured_sections
from mechshift_tl.report.overlap_figure import overlaps
from mechshift_tl.study import claims
from mechshift_tl.study.results import Study, TaskStudy


def build_report(study: Study) -> str:
    """The page as a string of HTML, some 5 MB; the same study gives the same page."""
    template = _environment().get_template("report.html.j2")
    return template.render(
        study=study,
        config=study.config.to_dict(),
        verdicts=study.verdicts.sentences(),
        overlaps=overlaps(study),
        overlap_lines=tables.overlap_lines(study),
        sizes=tables.sizes(study),
        overlap_claims=[claim for one in study.tasks.values() if (claim := claims.overlap_claim(one))],
        accuracy_rows=study.accuracy().to_dict("records"),
        has_control="control" in study.provenance["models"],
        model_rows=tables.model_rows(study),
        versions=tables.versions(study),
        sections=[_section(number, one) for number, one in enumerate(study.tasks.values(), 1)],
        caveat=CAVEAT,
        plotly_js=Markup(get_plotlyjs()),
    )


def write_report(study: Study, path: str | Path) -> Path:
    """Write the page to `path`; returns it."""
    path = Path(path)
    path.write_text(build_report(study), encoding="utf-8")
    return path


def _section(number: int, task: TaskStudy) -> dict[str, Any]:
    """What one task's part of the page shows."""
    return {
        "name": task.task,
        "id": f"task-{number}",
        "n": len(task.pool),
        "tried": task.pool.tried,
        "dropped": task.pool.examples.dropped,
        "readouts": {role: one.info for role, one in task.pool.readouts.items()},
        "prompts": tables.prompt_rows(task),
        "depth": [figures.depth_profiles(task), figures.early_shares(task)],
        "depth_claims": claims.depth_claims(task),
        "curve": figures.overlap_curves(task),
        "faithfulness": tables.faithfulness_rows(task),
        "areas": tables.area_rows(task),
        "faithfulness_curves": figures.faithfulness_curves(task),
        "validity": tables.validity_rows(task),
        "pictures": figures.circuit_pictures(task),
        "steps": figures.step_stability(task),
        "edges": tables.edge_tables(task),
        "lenses": tables.lens_tables(task),
        "specialisation": tables.specialisation_rows(task),
        "neurons": figures.neurons(task) if task.neurons else None,
        "neuron_claims": claims.neuron_claims(task),
        "measured": measured_sections(task),
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mechshift_tl.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent}
    environment.globals |= {"role_name": ROLE_NAMES.get, "judged": judged}
    return environment


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """`value` to `digits` decimals, "–" where it is missing; `sign` "+" also marks positive ones. Negative: a true minus."""
    return "–" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}".replace("-", "−")


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    return "–" if share is None or math.isnan(share) else f"{number(100 * share, digits)} %"
