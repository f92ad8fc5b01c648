"""The report's figures, a function each: what it shows of a run, where it stands, and what is said of it.

To add one, write a function below `@figure(...)` that returns a matplotlib figure (`plot.canvas`), or None
where the run has nothing for it. Its file, its place in both pages and its caption follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tasks.funnel import FunnelStep
from tasks.problem import LEVELS, VERIFIABLE, group_name
from tasks.recipe import role, title
from tasks.report.curves import RL_PANELS, SFT_PANELS, evaluations, overlay, pass_rate_by_domain
from tasks.report.data import Metrics, RunRecord
from tasks.report.names import DOMAIN_TITLES
from tasks.report.plot import canvas, to_svg
from tasks.report.recipe_figure import draw_recipe
from tasks.report.style import INK, MUTED, color
from tasks.report.tables import StageRow, duration


class Section(StrEnum):
    """The sections of the report in order, by heading."""

    recipe = "The recipe and what it scored"
    scores = "Every stage under one protocol"
    claims = "The paper's claims, checked"
    training = "Training"
    curation = "Curation"
    funnel = "Data funnel"
    samples = "What the checkpoints write"
    settings = "Settings of each stage"
    cost = "Cost"
    lineage = "Lineage, versions and how to reproduce"


Draw = Callable[[RunRecord], Figure | None]


@dataclass(frozen=True)
class ReportFigure:
    """A figure that the report draws of every run."""

    name: str
    """Of its file."""
    section: Section
    title: str
    """What a screen reader says."""
    caption: str
    draw: Draw


@dataclass(frozen=True)
class DrawnFigure:
    """A figure of one run as SVG."""

    name: str
    section: Section
    title: str
    caption: str
    svg: str


FIGURES: dict[str, ReportFigure] = {}
"""By name, in the order of the report."""


def figure(section: Section, title: str, caption: str = "") -> Callable[[Draw], Draw]:
    """Register the decorated function as a figure of the report, named after the function."""

    def register(draw: Draw) -> Draw:
        name = draw.__name__.replace("_", "-")
        if name in FIGURES:
            raise ValueError(f"the report has a figure {name} already: give the function another name")
        FIGURES[name] = ReportFigure(name, section, title, caption, draw)
        return draw

    return register


def draw_all(run: RunRecord) -> list[DrawnFigure]:
    """Draw every figure that the run has something for."""
    drawn = ((figure, figure.draw(run)) for figure in FIGURES.values())
    return [
        DrawnFigure(f.name, f.section, f.title, f.caption, to_svg(picture, f.title).svg)
        for f, picture in drawn
        if picture is not None
    ]


@figure(
    Section.recipe,
    "The recipe of the run",
    "pass@1 over the verifiable held-out questions with its 95% interval. Arrows are those of the "
    "artifacts' manifests; P marks what also reads the problems. The base is loaded three times.",
)
def recipe(run: RunRecord) -> Figure | None:
    """Each artifact in its place of the paper's Fig. 2, checkpoints with their score."""
    return draw_recipe(run.nodes, {row.node: row for row in run.rows})


@figure(Section.scores, "pass@1 by domain with 95% intervals")
def scores(run: RunRecord) -> Figure | None:
    """A panel a domain, a row a checkpoint."""
    rows = run.rows
    domains = [d for d in (*VERIFIABLE, "verifiable") if any(row.score(d, "pass_at_1") for row in rows)]
    if not domains:
        return None
    drawing = canvas(24 * len(rows) + 50)
    panels = drawing.subplots(1, len(domains), sharey=True, squeeze=False)[0]
    panels[0].set_yticks(range(len(rows)), [row.title for row in rows], color=INK)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    for axes, domain in zip(panels, domains, strict=True):
        _scores(axes, domain, rows)
    return drawing


@figure(
    Section.scores,
    "pass@1 by level of difficulty with 95% intervals",
    "pass@1 over the verifiable held-out questions of each level of difficulty, 1 the easiest.",
)
def levels(run: RunRecord) -> Figure | None:
    """A group of bars a level, a bar a checkpoint."""
    found = [
        n for n in LEVELS if any(row.score(group_name("level", str(n)), "pass_at_1") for row in run.rows)
    ]
    if not found:
        return None
    drawing, width = canvas(260), 0.86 / len(run.rows)
    axes = drawing.add_subplot()
    axes.set_xticks(range(len(found)), [f"level {level}" for level in found], color=INK)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    for i, row in enumerate(run.rows):
        scores = [row.score(group_name("level", str(level)), "pass_at_1") for level in found]
        bars = [(place, score) for place, score in enumerate(scores) if score]
        spread = [[s.value - s.low for _, s in bars], [s.high - s.value for _, s in bars]]
        error = {"elinewidth": 1, "ecolor": MUTED}
        axes.bar(
            [place - 0.43 + width * (i + 0.5) for place, _ in bars], [s.value for _, s in bars], width * 0.86,
            yerr=spread, color=color(role(row.node)), label=row.title, error_kw=error,
        )  # fmt: skip
    drawing.legend(loc="outside upper left", ncols=5)
    return drawing


@figure(
    Section.training,
    "Evaluation during training",
    "The same few held-out questions at step 0, before the first update, and again every few policy updates.",
)
def evaluation_curves(run: RunRecord) -> Figure | None:
    """A panel a metric, a line a stage."""
    return evaluations(run.evaluation_curves)


@figure(
    Section.training,
    "Training curves of the RL stages",
    "RL stages by policy update. Pale: single steps; strong: mean over a tenth of the run.",
)
def rl_curves(run: RunRecord) -> Figure | None:
    """A panel a metric, a line a stage."""
    return overlay(_rl(run), RL_PANELS)


@figure(
    Section.training,
    "Pass rate in training by domain",
    "Share of correct completions in training, by domain.",
)
def rl_domains(run: RunRecord) -> Figure | None:
    """A panel a stage, a line a domain."""
    return pass_rate_by_domain(_rl(run))


@figure(
    Section.training,
    "Training curves of the fine-tuning stages",
    "Fine-tuning stages by optimizer step.",
)
def sft_curves(run: RunRecord) -> Figure | None:
    """A panel a metric, a line a stage."""
    rl = _rl(run)
    return overlay(
        {n: m for n, m in run.curves.items() if n not in rl and role(n) != "reward-models"}, SFT_PANELS
    )


@figure(
    Section.funnel,
    "Rows kept and dropped by each step of the data",
    "Rows of each step as a share of those that entered the first step of the node. Strong: kept; pale: "
    "dropped. The table says why.",
)
def data_funnel(run: RunRecord) -> Figure | None:
    """A panel a node that left a funnel, a bar a step."""
    if not run.steps:
        return None
    heights = [len(steps) + 1.6 for steps in run.steps.values()]
    drawing = canvas(24 * sum(heights) + 8)
    panels = drawing.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (node, steps) in zip(panels, run.steps.items(), strict=True):
        _funnel(axes, node, steps)
    return drawing


@figure(
    Section.cost,
    "Seconds by stage",
    "Seconds of the jobs that built the artifacts, also where this run reused them.",
)
def cost(run: RunRecord) -> Figure | None:
    """A bar a node."""
    costs, total = run.costs, run.total_cost.seconds or 1.0
    drawing = canvas(24 * len(costs) + 8)
    axes = drawing.add_subplot()
    axes.grid(visible=False)
    axes.set_xticks(())
    axes.margins(x=0.2, y=0.01)
    axes.invert_yaxis()
    axes.set_yticks(range(len(costs)), [title(c.node) for c in costs], color=INK)
    bars = axes.barh(
        range(len(costs)), [c.seconds for c in costs], 0.6, color=[color(role(c.node)) for c in costs]
    )
    notes = [f"{duration(c.seconds)}  ({c.seconds / total:.0%})" for c in costs]
    axes.bar_label(bars, notes, padding=8, color=MUTED)
    return drawing


def _rl(run: RunRecord) -> dict[str, Metrics]:
    """The curves of the stages that RL trained: only they log a reward."""
    return {node: metrics for node, metrics in run.curves.items() if "reward" in metrics}


def _funnel(axes: Axes, node: str, steps: Sequence[FunnelStep]) -> None:
    entered = max(step.rows_in for step in steps) or 1
    kept = [step.kept / entered for step in steps]
    dropped = [(step.rows_in - step.kept) / entered for step in steps]
    places, hue = range(len(steps)), color(role(node))
    axes.set_title(title(node))
    axes.grid(visible=False)
    axes.set_xticks(())
    axes.set_xlim(0, 1.3)
    axes.set_ylim(len(steps) - 0.5, -0.5)
    axes.set_yticks(places, [_shortened(step.name) for step in steps], color=INK)
    axes.barh(places, kept, 0.6, color=hue)
    bars = axes.barh(places, dropped, 0.6, left=kept, color=hue, alpha=0.3)
    axes.bar_label(bars, [f"{s.kept:,} of {s.rows_in:,}" for s in steps], padding=8, color=MUTED)


def _shortened(name: str, limit: int = 36) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _scores(axes: Axes, domain: str, rows: Sequence[StageRow]) -> None:
    axes.set_title(DOMAIN_TITLES[domain])
    axes.set_xlim(0, 1)
    axes.set_xticks((0, 0.5, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x")
    for i, row in enumerate(rows):
        if score := row.score(domain, "pass_at_1"):
            spread = [[score.value - score.low], [score.high - score.value]]
            hue = color(role(row.node))
            bars = axes.errorbar(score.value, i, xerr=spread, fmt="o", color=hue, elinewidth=2, capsize=4)
            for part in bars.get_children():
                part.set_clip_on(False)
