"""A real browser, cut off from every network, draws the whole report without a complaint."""

import re
import shutil
import subprocess

import pytest

from mechshift_tl.report import write_report

OFFLINE = [
    "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr", "--v=0", "--dump-dom",
]  # fmt: skip


@pytest.mark.browser
def test_the_report_draws_itself_offline(study, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "tests marked `browser` need Chromium on the PATH; deselect them with -m 'not browser'"
    path = write_report(study, tmp_path / "report.html")
    figures = path.read_text(encoding="utf-8").count("<figure>")
    command = [chromium, *OFFLINE, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not re.findall(r".*CONSOLE.*", ran.stderr)
    drawn = re.findall(r'<div id="([^"]+)" class="plotly-graph-div js-plotly-plot"', ran.stdout)
    assert len(drawn) == len(set(drawn)) == figures == 9
    assert ran.stdout.count('class="plot-container plotly"') == figures
    assert ran.stdout.count('class="main-svg"') >= figures
    assert "<script>alert" not in ran.stdout
