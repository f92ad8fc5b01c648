import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from artifacts.tables import read_table
from tasks.report.claims import ClaimVerdict
from tasks.report.curves import RL_PANELS, one_stage, overlay, smooth, thin
from tasks.report.data import by_name
from tasks.report.figures import figures
from tasks.report.html import completion, render
from tests.report.synthetic import HOSTILE

SVG = "http://www.w3.org/2000/svg"
SVG_NAMESPACES = {SVG, "http://www.w3.org/1999/xlink"}
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else(report):
    page = (report.draft / "report.html").read_text()
    checker = Balance()
    checker.feed(page)
    assert checker.open == []
    assert not checker.tags & {"script", "link", "img", "iframe", "object"}
    assert not [name for name, _ in checker.attributes if name in ("src", "href") or name.startswith("on")]
    assert {v for _, v in checker.attributes if "//" in v} == SVG_NAMESPACES
    style = "".join(re.findall(r"<style[^>]*>(.*?)</style>", page, re.DOTALL))
    assert not re.search(r"url\(|@import|//", style)
    links = {value for name, value in checker.attributes if name == "xlink:href" or "url(" in value}
    assert all(link.startswith(("#", "url(#")) for link in links)


def test_model_text_is_escaped():
    shown = completion(HOSTILE)
    assert "<script" not in shown
    assert "&lt;script&gt;alert(&quot;x&quot;)" in shown
    assert shown.startswith("<b>&lt;think&gt;</b>")


def test_long_completions_are_cut_with_a_count():
    assert completion("x" * 2_600).endswith("… 1,000 more characters</span>")


def test_a_hostile_sample_in_the_page_stays_text(loaded):
    example = loaded.examples[0]
    hostile = replace(example, samples=(replace(example.samples[0], completion=HOSTILE),))
    page = render(replace(loaded, examples=[hostile]), {})
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_figures_are_small_xml_files(report):
    figures = {path.stem: path for path in report.draft.glob("*.svg")}
    assert set(figures) == {"recipe", "scores", "rl-curves", "rl-domains", "sft-curves", "cost"}
    for path in figures.values():
        ElementTree.parse(path)
        assert path.stat().st_size < 100_000, path.name


def test_equal_data_makes_equal_bytes(loaded, report):
    drawn = figures(loaded)
    assert {name: d.svg for name, d in drawn.items()} == {
        path.stem: path.read_text() for path in report.draft.glob("*.svg")
    }


@pytest.mark.parametrize("steps", [1, 50, 10_400])
def test_figures_stay_small_however_long_the_run(steps):
    points = [(step, 0.123456 * step % 7) for step in range(steps)]
    stages = {f"stage-{i}": dict.fromkeys(RL_PANELS, points) for i in range(8)}
    assert len(overlay(stages, RL_PANELS, "curves").svg) < 100_000
    domains = {f"pass_rate_{domain}": points for domain in ("math", "code", "stem", "logic")}
    alone = one_stage("r1", stages["stage-0"] | domains).svg
    assert len(alone) < 45_000  # in base64 beside a lineage, on a page of 100 KB
    words = [element.text for element in ElementTree.fromstring(alone).iter(f"{{{SVG}}}text")]
    assert {"KL to the reference", "Pass rate by domain", "Math"} <= set(words)


def test_thinning_keeps_the_ends_and_real_steps():
    series = np.array([(step, step**2) for step in range(1_000)])
    thinned = thin(series, 80)
    assert len(thinned) == 80
    assert thinned[[0, -1], 0].tolist() == [0, 999]
    assert (thinned[:, 1] == thinned[:, 0] ** 2).all()
    assert (thin(series, 2_000) == series).all()


def test_the_moving_mean_is_over_the_steps_there_are():
    values = np.arange(40.0)
    assert smooth(values)[20] == pytest.approx(20)  # two steps on each side
    assert smooth(values)[0] == pytest.approx(1)  # steps 0, 1 and 2
    assert smooth(np.array([3.0, 5.0])).tolist() == [3, 5]


def test_markdown_names_every_stage_claim_and_parent(report, loaded):
    page = (report.draft / "report.md").read_text()
    for row in loaded.rows:
        assert f"| {row.title} |" in page
    for finding in loaded.claims:
        assert f"{finding.says} |" in page
    assert "flowchart LR" in page
    assert "make run PRESET=tiny" in page


def test_the_summary_counts_the_verdicts(report, loaded):
    verdicts = [finding.verdict for finding in loaded.claims]
    assert report.headline["claims"] == len(verdicts)
    assert report.headline["reproduced"] == verdicts.count(ClaimVerdict.reproduces) > 0


def test_curves_of_one_artifact_from_the_command_line(report, r1_zero, tmp_path):
    out = tmp_path / "curves.svg"
    command = [sys.executable, "-m", "tasks.report.curves", str(r1_zero), str(out)]
    subprocess.run(command, check=True)
    metrics = by_name(read_table(r1_zero / "metrics"))
    assert out.read_text() == one_stage("r1-zero", metrics).svg  # also from process to process
