"""The report as a browser lays it out, on a telephone and on a desk, light and dark."""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from tasks.funnel import FunnelStep
from tasks.report.figures import draw_all
from tasks.report.pages import html_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium"),
]

# The browser's window is at least 500 pixels wide, a frame is as wide as it is told.
_FRAME = """<body><iframe id="frame" style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>
<pre id="out"></pre><script>
onload = () => {{
  const page = frame.contentDocument;
  const box = e => {{
    const r = e.getBoundingClientRect();
    return [e.textContent, r.left, r.right, r.height];
  }};
  const all = selector => [...page.querySelectorAll(selector)].map(box);
  out.textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth, verdicts: all(".verdict"), claims: all(".claims td"),
    funnel: all(".funnel td"), funnels: all(".funnel"), steps: all(".steps td"),
    settings: all(".settings td"), paper: getComputedStyle(page.body).backgroundColor,
  }});
}}</script>"""


def laid_out(page, width, folder, dark=False):
    """What a browser measures of the page in a window of that width."""
    file = folder / "frame.html"
    file.write_text(_FRAME.format(width=width, page=html.escape(page)))
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}", "--dump-dom",
        "--virtual-time-budget=10000",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []), file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=os.environ)
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


def awkward(run):
    """The run with the longest words that a run can have: reasons, domains, a preset's name, settings."""
    long = "language_" * 8
    part = run.parts["r1"]
    config = part.manifest.config | {long: "x" * 300}
    return replace(
        run,
        preset=long,
        funnels=[replace(f, rejected={long: 10**9}, kept={long: 10**9}) for f in run.funnels],
        steps={node: (FunnelStep(long, 10**9, 0, {long: 10**9}),) for node in run.steps},
        claims=[replace(claim, measured=long, says=long) for claim in run.claims],
        parts=run.parts | {"r1": replace(part, manifest=part.manifest.model_copy(update={"config": config}))},
    )


@pytest.mark.parametrize("width", [320, 390, 719, 1200])
@pytest.mark.parametrize("words", ["usual", "awkward"])
def test_nothing_lies_outside_the_window(loaded, tmp_path, width, words):
    run = awkward(loaded) if words == "awkward" else loaded
    seen = laid_out(html_page(run, draw_all(run)), width, tmp_path)
    assert seen["width"] == width
    assert len(seen["verdicts"]) == len(run.claims)
    assert [text for text, *_ in seen["verdicts"]] == [claim.verdict for claim in run.claims]
    for part in ("verdicts", "claims", "funnel", "funnels", "steps"):
        assert seen[part], part
        assert all(left >= 0 and right <= width and height > 0 for _, left, right, height in seen[part]), part
    assert all(right <= width for _, _, right, _ in seen["settings"])


def test_the_page_follows_the_readers_theme(loaded, tmp_path):
    page = html_page(loaded, [])
    papers = [laid_out(page, 390, tmp_path, dark)["paper"] for dark in (False, True)]
    assert papers == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"]
