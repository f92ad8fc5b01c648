import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

from tasks.report.charts import MAX_POINTS, thin
from tasks.report.claims import Verdict
from tasks.report.curves import RL_PANELS, overlay
from tasks.report.html import completion, render
from tasks.report.svg import ticks
from tests.report.synthetic import HOSTILE

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
    assert {v for _, v in checker.attributes if "//" in v} == {"http://www.w3.org/2000/svg"}
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert not re.search(r"url\(|@import|//", style)


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


def test_the_largest_figure_stays_small_however_long_the_run():
    steps = [(step, 0.123456 * step % 7) for step in range(10_400)]
    stages = {f"stage-{i}": dict.fromkeys(RL_PANELS, steps) for i in range(8)}
    figure = overlay(stages, RL_PANELS, "curves")
    assert len(figure.standalone()) < 100_000


def test_thinning_keeps_the_mean():
    points = [(float(i), float(i)) for i in range(10 * MAX_POINTS)]
    thinned = thin(points)
    assert len(thinned) == MAX_POINTS
    assert sum(y for _, y in thinned) / MAX_POINTS == sum(y for _, y in points) / len(points)


def test_ticks_are_round_and_inside():
    assert ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(37, 61) == [40, 45, 50, 55, 60]
    assert ticks(3, 3) == [3]


def test_markdown_names_every_stage_claim_and_parent(report, loaded):
    page = (report.draft / "report.md").read_text()
    for row in loaded.rows:
        assert f"| {row.title} |" in page
    for finding in loaded.findings:
        assert f"{finding.says} |" in page
    assert "flowchart LR" in page
    assert "make run PRESET=tiny" in page


def test_the_summary_counts_the_verdicts(report, loaded):
    verdicts = [finding.verdict for finding in loaded.findings]
    assert report.headline["claims"] == len(verdicts)
    assert report.headline["reproduced"] == verdicts.count(Verdict.reproduces) > 0


def test_curves_of_one_artifact_from_the_command_line(report, r1_zero, tmp_path):
    out = tmp_path / "curves.svg"
    command = [sys.executable, "-m", "tasks.report.curves", str(r1_zero), str(out)]
    subprocess.run(command, check=True)
    assert "Training curves of R1-Zero" in out.read_text()
