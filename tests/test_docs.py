"""The documentation against the code: settings tables, links, anchors, and what the README shows."""

import re
from pathlib import Path

import pytest

from docs.generate import PAGES, settings_table, with_settings
from tasks.presets import REPOSITORY
from tasks.recipe import STAGES

MARKDOWN = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
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
