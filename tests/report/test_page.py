import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.container import BarContainer

from artifacts.tables import read_table
from tasks.funnel import FunnelStep
from tasks.recipe import title
from tasks.report.browser import ShownSample, browser_part
from tasks.report.claims import ClaimVerdict
from tasks.report.curves import RL_PANELS, evaluations, one_stage, overlay, smooth, thin
from tasks.report.data import by_name, load_run
from tasks.report.figures import FIGURES, Section, draw_all, figure
from tasks.report.pages import html_page, markdown_page
from tasks.report.plot import canvas, to_svg
from tasks.report.recipe_figure import recipe_svg
from tasks.report.selection import ChosenCompletions
from tasks.report.stage_settings import settings_of
from tasks.report.style import COMPARED, DOMAIN_COLORS, FAINT, MUTED, color
from tests.report.synthetic import SKILL, row_with

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
    assert not checker.tags & {"link", "img", "iframe", "object"}
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="browser-data"', ""]
    [policy] = [value for name, value in checker.attributes if name == "content" and "src" in value]
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    assert policy.split("; ")[::2] == [
        "default-src 'none'",
        f"script-src 'sha256-{digest}'",
        "form-action 'none'",
    ]
    assert not [name for name, _ in checker.attributes if name == "src" or name.startswith("on")]
    assert all(value.startswith("#") for name, value in checker.attributes if name == "href")
    assert {v for _, v in checker.attributes if "//" in v} == SVG_NAMESPACES
    style = "".join(re.findall(r"<style[^>]*>(.*?)</style>", page, re.DOTALL))
    assert not re.search(r"url\(|@import|//", style)
    links = {value for name, value in checker.attributes if name == "xlink:href" or "url(" in value}
    assert all(link.startswith(("#", "url(#")) for link in links)


def test_the_table_of_contents_names_the_sections_that_are_there(loaded):
    for run in (
        loaded,
        replace(
            loaded, curves={}, evaluation_curves={}, funnels=[], completions=ChosenCompletions((), (), 0)
        ),
    ):
        page = html_page(run, draw_all(run))
        contents = re.findall(r'<li><a href="#(\w+)">(.*?)</a></li>', page)
        assert contents == re.findall(r'<section id="(\w+)"><h2>(.*?)</h2>', page)
        assert ("training", "Training") in contents or not run.curves


ATTACKS = [
    "<script>alert(1)</script>",
    "</script></style></title></svg></p><img src=x onerror=alert(1)>",
    '"><a href="javascript:alert(1)">x</a>',
    "{{ run.preset }}{% include 'style.css' %}",
    "<!-- --><svg onload=alert(1)>",
    "a\x00b\x1b[31mc\x7f\x9b",
    "abc\u202egnp.exe\u2066\u200f\u2069",
    "a | b\n| --- |\n# heading\n![i](http://evil.example/i.png) [l](javascript:x) `c` www.evil.example @all",
]
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def hostile(loaded, text):
    """The run with `text` wherever a stranger can write."""
    shown = loaded.completions
    sample = ShownSample.of_row(text, row_with(shown.problems[0].id, text))
    manifest = {"preset": text, "stage": text, "code_revision": text, "versions": {text: text},
                "config": {text: text, "list": [{text: text}]}}  # fmt: skip
    part = replace(loaded.parts["base"], manifest=loaded.parts["base"].manifest.model_copy(update=manifest))
    funnel = replace(loaded.funnels[0], node=text, rejected={text: 3}, kept={text: 2})
    problem = replace(shown.problems[0], prompt=text, answer=text, domain=text, source=text, language=text)
    return replace(
        loaded,
        preset=text,
        rows=[replace(loaded.rows[0], node=text), *loaded.rows[1:]],
        parts=loaded.parts | {"base": part, text: replace(part, name=text)},
        funnels=[funnel],
        costs=[replace(loaded.costs[0], node=text, stage=text)],
        completions=ChosenCompletions([sample], [problem], 1),
    )


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_that_strangers_write_breaks_out_of_the_page(loaded, text):
    run, harmless = hostile(loaded, text), hostile(loaded, "harmless")
    page, plain = Balance(), Balance()
    page.feed(made := html_page(run, []))
    plain.feed(html_page(harmless, []))
    assert page.open == []
    assert page.tags == plain.tags
    assert {name for name, _ in page.attributes} == {name for name, _ in plain.attributes}
    assert not UNSAFE.search(made)


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_that_strangers_write_breaks_out_of_the_markdown(loaded, text):
    run, harmless = hostile(loaded, text), hostile(loaded, "harmless")
    made, plain = markdown_page(run, []), markdown_page(harmless, [])
    assert not UNSAFE.search(made)
    assert not re.search(r"<(?!br/>)|\]\((?![\w-]+\.svg\))|://|www\.|@all", made)
    assert [line.count("|") for line in made.splitlines()] == [line.count("|") for line in plain.splitlines()]


def test_hostile_text_in_a_figure_stays_text(loaded):
    run = hostile(loaded, " ".join(ATTACKS))
    for name in ("scores", "cost"):
        svg = to_svg(FIGURES[name].draw(run), " ".join(ATTACKS)).svg
        elements = list(ElementTree.fromstring(svg).iter())
        assert not {e.tag for e in elements} & {f"{{{SVG}}}{tag}" for tag in ("script", "image", "a", "img")}
        assert any("<script>alert" in (e.text or "") for e in elements)
        assert not UNSAFE.search(svg)


def test_a_figure_of_ones_own_is_one_function(loaded):
    @figure(Section.cost, "Artifacts by node", "How many artifacts a node has.")
    def artifacts_by_node(run):
        drawing = canvas(60)
        drawing.add_subplot().barh([c.node for c in run.costs], [c.artifacts for c in run.costs])
        return drawing

    try:
        drawn = draw_all(replace(loaded, curves={}))
    finally:
        del FIGURES["artifacts-by-node"]
    page = html_page(loaded, drawn)
    assert (
        page.index("<h2>Cost</h2>") < page.index("<title>Artifacts by node</title>") < page.index("<h2>Lin")
    )
    assert "<figcaption>How many artifacts a node has.</figcaption>" in page
    text = markdown_page(loaded, drawn)
    assert "![Artifacts by node](artifacts-by-node.svg)\n\n*How many artifacts a node has.*" in text
    assert next(d for d in drawn if d.name == "artifacts-by-node").svg.startswith("<svg")


def test_two_figures_of_one_name_are_refused():
    with pytest.raises(ValueError, match="has a figure recipe already"):

        @figure(Section.cost, "Another")
        def recipe(run):
            return None


def test_what_the_run_lacks_is_left_out(loaded):
    bare = replace(
        loaded,
        curves={},
        evaluation_curves={},
        funnels=[],
        completions=ChosenCompletions((), (), 0),
        steps={},
        rows=[replace(r, scores={n: s for n, s in r.scores.items() if " " not in n}) for r in loaded.rows],
    )
    drawn = draw_all(bare)
    assert {d.name for d in drawn} == {"recipe", "scores", "cost"}
    page = html_page(bare, drawn)
    assert "<h2>Training" not in page
    assert "<h2>Curation" not in page
    assert Section.funnel not in page + markdown_page(bare, drawn)
    assert "## Training" not in markdown_page(bare, drawn)


def test_figures_are_small_xml_files(report):
    figures = {path.stem: path for path in report.draft.glob("*.svg")}
    assert set(figures) == {
        "recipe", "scores", "levels", "evaluation-curves", "rl-curves", "rl-domains", "sft-curves",
        "data-funnel", "cost",
    }  # fmt: skip
    for path in figures.values():
        ElementTree.parse(path)
        assert path.stat().st_size < 100_000, path.name


@pytest.mark.slow
def test_equal_data_makes_equal_bytes(loaded, report):
    drawn = draw_all(loaded)
    assert {d.name: d.svg for d in drawn} == {
        path.stem: path.read_text() for path in report.draft.glob("*.svg")
    }
    assert html_page(loaded, drawn) == (report.draft / "report.html").read_text()
    assert markdown_page(loaded, drawn) == (report.draft / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 50, 10_400])
def test_figures_stay_small_however_long_the_run(steps):
    points = [(step, 0.123456 * step % 7) for step in range(steps)]
    stages = {f"stage-{i}": dict.fromkeys(RL_PANELS, points) for i in range(8)}
    assert len(to_svg(overlay(stages, RL_PANELS), "curves").svg) < 100_000
    domains = {f"pass_rate_{domain}": points for domain in ("math", "code", "stem", "logic")}
    alone = one_stage("r1", stages["stage-0"] | domains).svg
    assert len(alone) < 45_000  # in base64 beside a lineage, on a page of 100 KB
    words = [element.text for element in ElementTree.fromstring(alone).iter(f"{{{SVG}}}text")]
    assert {"KL to the reference", "Pass rate by domain", "Math"} <= set(words)
    assert {"Training curves of R1", "policy update"} <= set(words)


def colours(svg, panel):
    """The colours of the lines in the panel of that title (of the curves of one stage)."""
    groups = (g for g in ElementTree.fromstring(svg).iter(f"{{{SVG}}}g") if "axes_" in g.get("id", ""))
    axes = next(g for g in groups if panel in [t.text for t in g.iter(f"{{{SVG}}}text")])
    lines = [g for g in axes.iter(f"{{{SVG}}}g") if re.fullmatch(r"line2d_\d+", g.get("id", ""))]
    styles = [path.get("style", "") for line in lines for path in line.findall(f"{{{SVG}}}path")]
    return {found[1] for style in styles if (found := re.search(r"stroke: (#\w+)", style))} - {FAINT}


@pytest.mark.parametrize("node", SKILL)
def test_only_the_curves_of_domains_have_a_domains_colour_and_legend(node):
    """Some stages have the colour of a domain: their reward would read as that domain's."""
    points = [(step, 0.5) for step in range(30)]
    names = ("reward", "pass_rate", *(f"pass_rate_{domain}" for domain in DOMAIN_COLORS))
    svg = one_stage(node, dict.fromkeys(names, points)).svg
    assert colours(svg, "Pass rate by domain") == set(DOMAIN_COLORS.values())
    assert colours(svg, "Reward") == colours(svg, "Pass rate in training") == {MUTED}
    legends = [g for g in ElementTree.fromstring(svg).iter() if g.get("id") == "legend_1"]
    assert [t.text for t in legends[0].iter(f"{{{SVG}}}text")] == ["Math", "Code", "STEM", "Logic"]
    assert "legend_2" not in svg


def test_the_one_stage_of_a_figure_of_stages_is_named():
    svg = to_svg(overlay({"dev1": {"loss": [(step, 1.0) for step in range(30)]}}, ["loss"]), "curves").svg
    assert {"Dev1", "Loss"} <= {t.text for t in ElementTree.fromstring(svg).iter(f"{{{SVG}}}text")}


def test_two_runs_have_their_own_colours_in_every_figure_of_curves():
    runs, hues = ("tiny", "tiny@lower-lr"), dict(zip(("tiny", "tiny@lower-lr"), COMPARED, strict=True))
    curves = {run: {"reward": [(0, 0.5), (9, 0.7)], "pass_at_1": [(0, 0.2), (9, 0.4)]} for run in runs}
    trained, held_out = overlay(curves, ["reward"], hues), evaluations(curves, hues)
    assert colours(to_svg(trained, "trained").svg, "Reward") == set(COMPARED)
    assert colours(to_svg(held_out, "held out").svg, "pass@1") == set(COMPARED)


def test_the_figure_of_the_recipe_has_the_problems_and_marks_what_reads_them(loaded):
    words = [t.text for t in ElementTree.fromstring(recipe_svg(loaded.nodes).svg).iter(f"{{{SVG}}}text")]
    readers = [node.name for node in loaded.nodes if "problems" in node.parents]
    assert "Problems" in words
    assert words.count("P") == len(readers) + 1 == 8
    assert {"r1-zero", "cold-start", "dev2", "mixture", "reward-models", "r1"} < set(readers)


def test_settings_that_differ_from_the_papers_come_first(loaded):
    found = {stage.title: stage for stage in settings_of(loaded)}
    assert list(found) == [title(name) for name in (*loaded.parts, "evaluation")]
    differing = {line.name: (line.value, line.published) for line in found["Dev2"].differing}
    assert differing["steps"] == ("36", "10400")
    assert differing["learning_rate"] == ("8e-05", "3e-06")
    assert differing["engine.name"] == ("transformers", "vllm-server")
    same = {line.name: line.value for line in found["Dev2"].same}
    assert "language" in same["rewards"]  # published for Dev2, though no default of the stage
    assert same["seed"] == "1"
    assert not same.keys() & differing.keys()
    assert ("batch_size", "64") in {
        (line.name, line.published) for line in found["Student, distilled"].differing
    }
    page = (html_page(loaded, []), markdown_page(loaded, []))
    assert re.search(r">group_size</th><td>8</td><td>16</td>", page[0])
    assert "| Dev2 | group_size | 8 | 16 |" in page[1]


def test_evaluations_of_other_settings_are_told_apart(loaded):
    part = loaded.evaluations["r1"]
    other = part.manifest.model_copy(update={"config": part.manifest.config | {"seed": 77}})
    run = replace(loaded, evaluations=loaded.evaluations | {"r1": replace(part, manifest=other)})
    seeds = {s.title: [line.value for line in s.differing if line.name == "seed"] for s in settings_of(run)}
    assert seeds["Evaluation of R1"] == ["77"]
    assert seeds["Evaluation"] == []


def test_settings_that_this_release_does_not_know_are_shown_without_a_comparison(loaded):
    changed = {"stage": "of-tomorrow", "config": {"depth": {"most": 3}, "names": ["a", "b"]}}
    part = replace(loaded.parts["dev1"], manifest=loaded.parts["dev1"].manifest.model_copy(update=changed))
    found = {s.title: s for s in settings_of(replace(loaded, parts=loaded.parts | {"dev1": part}))}["Dev1"]
    assert (found.differing, found.compared) == ([], False)
    assert [(line.name, line.value) for line in found.same] == [("depth.most", "3"), ("names", "[a, b]")]


@pytest.mark.parametrize(
    ("preset", "command"),
    [
        ("tiny", "make run PRESET=tiny"),
        ("quick", "r1 run --preset PATH"),
        ("my/tiny", "r1 run --preset PATH"),
        ("../configs/tiny", "r1 run --preset PATH"),
        ("", "r1 run --preset PATH"),
        ("a b", "r1 run --preset PATH"),
    ],
)
def test_the_command_that_makes_the_report_again(loaded, preset, command):
    run = replace(loaded, preset=preset)
    for page in (html_page(run, []), markdown_page(run, [])):
        assert command in page
        assert ("PATH is the YAML file of preset" in page) == command.endswith("PATH")


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


@pytest.mark.slow
def test_curves_of_one_artifact_from_the_command_line(report, r1_zero, tmp_path):
    out = tmp_path / "curves.svg"
    command = [sys.executable, "-m", "tasks.report.curves", str(r1_zero), str(out)]
    subprocess.run(command, check=True)
    metrics = by_name(read_table(r1_zero / "metrics"))
    assert out.read_text() == one_stage("r1-zero", metrics).svg  # also from process to process


@pytest.mark.slow
def test_the_data_funnel_of_each_node_is_drawn_and_told(loaded):
    assert list(loaded.steps) == ["cold-start", "mixture"]
    drawn = [figure for figure in draw_all(loaded) if figure.name == "data-funnel"]
    first, second = loaded.steps["cold-start"]
    note = f"{second.kept} of {first.kept}"
    assert drawn[0].svg.count(note) == 2
    page, text = html_page(loaded, drawn), markdown_page(loaded, drawn)
    section = page[page.index('<section id="funnel"') : page.index('<section id="samples"')]
    assert section.count(f'<td data-head="Dropped">{first.reasons}</td>') == 2
    assert f"| Cold-start set | near duplicates | {first.kept} | near duplicate 2 | {second.kept} |" in text


@pytest.mark.slow
def test_words_of_a_funnel_are_made_safe(loaded):
    step = FunnelStep("<script>", 3, 1, {"<img src=x>": 2})
    run = replace(loaded, steps={"cold-start": (step,)})
    page, text = html_page(run, draw_all(run)), markdown_page(run, draw_all(run))
    assert "<script>" not in page.replace(f"<script>{browser_part({}).script}", "") + text
    assert "<img" not in page + text


KINDS = ("checkpoint", "dataset", "reward_models", "evaluation")


@pytest.mark.slow
@pytest.mark.parametrize("missing", [*SKILL, "cold-start", "mixture", "reward-models", "evaluation.r1"])
def test_a_run_with_one_stage_missing_still_reports(report, missing):
    """With its evaluation, where it is a checkpoint; or with an evaluation alone."""
    gone = {missing, *(f"{kind}.{missing}" for kind in KINDS)} & report.inputs.keys()
    assert gone
    run = load_run({name: given for name, given in report.inputs.items() if name not in gone})
    for drawn in FIGURES.values():
        drawn.draw(run)
    page, text = html_page(run, []), markdown_page(run, [])
    evaluated = [node for node in SKILL if f"evaluation.{node}" not in gone]
    assert sorted(row.node for row in run.rows) == sorted(evaluated)
    assert all(row.title in page and row.title in text for row in run.rows)
    assert {s.node for s in run.completions.samples if s.step is None} == set(evaluated)


def test_bars_by_level_are_those_of_the_scores(loaded):
    axes = FIGURES["levels"].draw(loaded).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"level {n}" for n in range(1, 6)]
    groups = [group for group in axes.containers if isinstance(group, BarContainer)]
    bars = {group.get_label(): [bar.get_height() for bar in group] for group in groups}
    assert bars == {
        row.title: [row.score(f"level {n}", "pass_at_1").value for n in range(1, 6)] for row in loaded.rows
    }
    page = html_page(loaded, [])
    assert "<summary>pass@1 by level</summary>" in page
    assert "<summary>pass@1 by source</summary>" not in page  # there is one source


def test_the_curve_of_evaluations_during_training_is_drawn_whatever_its_k(loaded, report):
    drawing = FIGURES["evaluation-curves"].draw(loaded)
    titles = [axes.get_title("left") for axes in drawing.axes]
    assert titles == [
        "pass@1", "cons@k", "Completion length (tokens)", "Reflective words a completion",
        "Language consistency", "Format",
    ]  # fmt: skip
    [line] = [line for line in drawing.axes[0].lines if line.get_color() == color("r1-zero")]
    metrics = by_name(read_table(report.inputs["checkpoint.r1-zero"].path / "evaluation_metrics"))
    assert list(zip(*line.get_data(), strict=True)) == metrics["pass_at_1"]
    assert "@60" in "".join(re.findall(r'"name":"r1-zero@\d+"', html_page(loaded, [])))


@pytest.mark.slow
def test_the_page_stays_below_five_megabytes(loaded):
    chosen = loaded.completions
    long = [ShownSample.of_row(s.node, row_with(s.question, "&你" * 3_000)) for s in chosen.samples]
    problems = [replace(p, id=f"{p.id}-{i}") for i in range(3) for p in chosen.problems]
    many = [replace(s, question=f"{s.question}-{i}") for i in range(3) for s in long]
    page = html_page(replace(loaded, completions=ChosenCompletions(many, problems, 10**6)), draw_all(loaded))
    assert 2_000_000 < len(page.encode()) < 5_000_000
    assert "of 1,000,000 questions, chosen at random" in page
