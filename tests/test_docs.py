"""The documentation against the code: settings tables, links, anchors, and what the README shows."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from docs import results
from docs.generate import PAGES, README_PRESET, settings_table, with_result, with_settings
from tasks.recipe import STAGES
from tasks.settings import REPOSITORY

MARKDOWN = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
names = [str(path.relative_to(REPOSITORY)) for path in MARKDOWN]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    heads = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", MARKDOWN, ids=names)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        assert not file.startswith("http"), target
        place = page.parent / file if file else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_page_whose_settings_are_the_codes(stage):
    page = (PAGES / f"{stage}.md").read_text()
    assert with_settings(page, stage) == page, "run `python -m docs.generate`"


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "report"])
def test_every_page_shows_a_run_and_trained_stages_a_curve(stage):
    page = (PAGES / f"{stage}.md").read_text()
    figures = re.findall(r"(?s)<!-- run \S+ -->\n(.*?)<!-- end -->", page)
    assert figures
    assert all(figures)
    if STAGES[stage].pool == "gpu-train":
        assert all(".svg)" in figure for figure in figures)


def test_a_changed_default_changes_the_table():
    table = settings_table("rl-zero")
    assert "| `kl_coef` | `0.001` | `0.001` | Beta:" in table
    assert "| `group_size` | `16` | `8` |" in table
    assert "`group_size`" not in settings_table("reasoning-rl", "rl-zero")


def test_the_readme_says_what_the_result_file_holds():
    page = results.README.read_text()
    assert page.count("<!-- result ") == len(results.blocks(results.read(README_PRESET)))
    assert with_result(page, results.read(README_PRESET)) == page, "run `python -m docs.generate`"
    assert len(page.splitlines()) < 100


def test_another_result_is_another_readme():
    result = results.read(README_PRESET)
    other = replace(result, wall_seconds=61.0, rows=result.rows[:3], claims=result.claims[:5])
    page = with_result(results.README.read_text(), other)
    assert "1 min 1 s" in page
    assert "| Dev2 |" not in page
    assert "checks 5 claims" in page


def test_a_result_survives_its_file(tmp_path, monkeypatch):
    result = results.read(README_PRESET)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.write(result)
    assert results.read(README_PRESET) == result


def test_the_figure_of_the_readme_follows_the_theme_and_shows_every_score():
    result = results.read(README_PRESET)
    drawn = results.draw(result)
    for row in result.rows:
        assert f">{100 * row.score('verifiable', 'pass_at_1').value:.0f}%<" in drawn
    assert "prefers-color-scheme:dark" in drawn
    assert (results.RESULTS / "recipe.svg").read_text().count("%</text>") == len(result.rows)


def test_the_examples_for_contributors_are_python_and_yaml():
    """`tests/test_rooms.py` runs most of them; here is what a typing error would break."""
    blocks = re.findall(r"(?s)```(python|yaml)\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text())
    assert len(blocks) >= 10
    for language, text in blocks:
        ast.parse(text) if language == "python" else yaml.safe_load(text)


@pytest.mark.parametrize("page", MARKDOWN[:2], ids=names[:2])
def test_every_path_that_is_named_exists(page):
    """In backticks or a table: `tasks/recipe.py`. NAME stands for any name."""
    for path in re.findall(
        r"`((?:tasks|flows|artifacts|docs|tests|configs|benchmarks)/[\w./-]*)`", page.read_text()
    ):
        named = "NAME" in path or path.startswith(MADE_UP)
        assert named or (REPOSITORY / path).exists(), path


MADE_UP = (
    "tasks/benchmarks/minerva", "tasks/census", "tasks/rewards/terms/brief", "tasks/rewards/verifiers/suffix",
    "tasks/problems/sources/backwards", "configs/students/my-student",
)  # fmt: skip
"""Files of the worked examples."""
