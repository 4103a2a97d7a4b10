"""A study as one self-contained HTML page.

1. Say the answer first; gather figures, tables and claims, task by task.
2. Fill the template; everything that is not drawn here is escaped.
3. Put plotly.js into the page, once. The page's own policy forbids it to load anything, so it opens offline.

Figures are kept as data, and drawn when they are first seen: in the page's theme, at the width that there is.
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from hooked_diffusion.html import table
from mechshift_tl.compare.result import CAVEAT
from mechshift_tl.intervals import judged
from mechshift_tl.plotting import DARK, ROLE_NAMES
from mechshift_tl.report import headline, tables
from mechshift_tl.report.circuit_map import circuit_map
from mechshift_tl.report.components import components, patterns
from mechshift_tl.report.player import played
from mechshift_tl.report.sections import playback, sections
from mechshift_tl.study import claims
from mechshift_tl.study.results import Study, TaskStudy


def build_report(study: Study) -> str:
    """The page as a string of HTML, some 6 MB; the same study gives the same page."""
    template = _environment().get_template("report.html.j2")
    conditions = study.conditions.all
    return template.render(
        study=study,
        config=study.config.to_dict(),
        answers=headline.answers(study),
        basis=headline.basis(study),
        overlaps=headline.overlaps(study),
        verdicts=study.verdicts.sentences(),
        conditions=conditions,
        conditions_met=sum(one.met == "met" for one in conditions),
        overlap_lines=tables.overlap_lines(study),
        sizes=tables.sizes(study),
        overlap_claims={name: claim for name, one in study.tasks.items() if (claim := claims.overlap_claim(one))},
        accuracy_rows=study.accuracy().to_dict("records"),
        has_control="control" in study.provenance["models"],
        model_rows=tables.model_rows(study),
        versions=tables.versions(study),
        tasks=[_task(number, one) for number, one in enumerate(study.tasks.values(), 1)],
        caveat=CAVEAT,
        plotly_js=Markup(get_plotlyjs()),
        dark=DARK,
    )


def write_report(study: Study, path: str | Path) -> Path:
    """Write the page to `path`; returns it."""
    path = Path(path)
    path.write_text(build_report(study), encoding="utf-8")
    return path


def _task(number: int, task: TaskStudy) -> dict[str, Any]:
    """What one task's part of the page shows."""
    run = playback(task)
    return {
        "name": task.task,
        "id": f"task-{number}",
        "n": len(task.pool),
        "tried": task.pool.tried,
        "dropped": task.pool.examples.dropped,
        "readouts": {role: one.info for role, one in task.pool.readouts.items()},
        "roles": list(task.circuits),
        "prompts": tables.prompt_rows(task),
        "map": circuit_map(task),
        "components": components(task),
        "patterns": patterns(task),
        "run": run,
        "played": played(run) if run else None,
        "faithfulness": tables.faithfulness_rows(task),
        "areas": tables.area_rows(task),
        "validity": tables.validity_rows(task),
        "edges": tables.edge_tables(task),
        "sections": sections(task),
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mechshift_tl.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent, "json": as_json, "spec": spec, "frame": partial(table, missing="–")}
    environment.globals |= {"role_name": ROLE_NAMES.get, "judged": judged}
    return environment


def as_json(value: object) -> Markup:
    """`value` as JSON that can stand in a script element: no text in it can end that element."""
    return Markup(_harmless(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))


def spec(drawing: Any) -> Markup:
    """A drawing's figure as JSON, as `as_json` gives it."""
    return Markup(_harmless(drawing.figure.to_json()))


def _harmless(text: str) -> str:
    return text.replace("<", "\\u003c")


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """`value` to `digits` decimals, "–" where it is missing; `sign` "+" also marks positive ones. Negative: a true minus."""
    return "–" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}".replace("-", "−")


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    return "–" if share is None or math.isnan(share) else f"{number(100 * share, digits)} %"
