"""The report's two pages, from the templates beside this file: HTML and Markdown.

Names and model text come from strangers. No template can forget to make them safe: each environment passes
every value through one function (Jinja's `finalize`) unless it is `Markup`, which only text made here is.
HTML is escaped by Jinja after that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tasks.problem import DOMAINS
from tasks.recipe import role, title
from tasks.report import run_summary, style
from tasks.report.browser import browser_data, browser_part
from tasks.report.claims import ClaimVerdict
from tasks.report.data import RunRecord
from tasks.report.figures import DrawnFigure, Section
from tasks.report.stage_settings import settings_of
from tasks.report.style import color
from tasks.report.tables import LEGEND, columns_by, duration, shown_columns, to_markdown
from tasks.text_safety import for_markdown, for_page

MAX_BYTES = 4_900_000
"""Of report.html. The browser of completions gets what the rest of the page leaves."""

_TONES = {
    ClaimVerdict.reproduces: "good",
    ClaimVerdict.does_not: "bad",
    ClaimVerdict.noise: "unsure",
    ClaimVerdict.not_measured: "",
}


def html_page(run: RunRecord, figures: Sequence[DrawnFigure]) -> str:
    """Return the report as one HTML file of at most `MAX_BYTES` that needs nothing else."""
    found = run.completions
    if not found.samples:
        return _rendered("report.html.jinja", for_page, run, figures, browser=None)
    empty = browser_part(browser_data((), ()))
    room = MAX_BYTES - len(_rendered("report.html.jinja", for_page, run, figures, browser=empty).encode())
    data = browser_data(found.samples, found.problems, found.of_questions, room)
    data["questions"].sort(key=_by_domain)
    return _rendered("report.html.jinja", for_page, run, figures, browser=browser_part(data))


def markdown_page(run: RunRecord, figures: Sequence[DrawnFigure]) -> str:
    """Return the report in Markdown; figures are linked by file name (`NAME.svg` beside it)."""
    return re.sub(r"\n{3,}", "\n\n", _rendered("report.md.jinja", for_markdown, run, figures))


def _by_domain(question: Mapping[str, Any]) -> tuple[int, int, str, str]:
    domain = question["domain"]
    place = DOMAINS.index(domain) if domain in DOMAINS else len(DOMAINS)
    return place, question["level"] or 0, question["language"], question["id"]


def _rendered(
    name: str, safe: Callable[[str], str], run: RunRecord, figures: Sequence[DrawnFigure], **more: Any
) -> str:
    template = environment(safe).get_template(name)
    page = template.render(
        run=run,
        figures=figures,
        headline=run_summary.headline(run),
        facts=run_summary.facts(run),
        columns=shown_columns(run.rows),
        stage_table=to_markdown(run.rows),
        edges=run_summary.edges(run),
        versions=run_summary.versions(run),
        revisions=run_summary.revisions(run),
        reproduce=run_summary.reproduce(run),
        reproduce_note=run_summary.reproduce_note(run),
        settings=settings_of(run),
        **more,
    )
    return page.lstrip()


@cache
def environment(safe: Callable[[str], str]) -> Environment:
    """Jinja with the functions that the templates call; every text value passes through `safe`."""

    def finalize(value: Any) -> Any:
        return safe(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("tasks.report"),
        autoescape=lambda name: name is not None and ".html" in name,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"node_title": title}
    environment.globals |= {
        "Section": Section, "style": style, "legend": LEGEND, "tones": _TONES, "title": title,
        "columns_by": columns_by, "duration": duration, "funnel_lines": run_summary.funnel_lines,
        "node_color": lambda node: color(role(node)),
    }  # fmt: skip
    return environment
