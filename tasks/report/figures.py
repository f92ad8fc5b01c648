"""The report's figures by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from tasks.problem import VERIFIABLE
from tasks.recipe import role, title
from tasks.report.curves import RL_PANELS, SFT_PANELS, overlay, pass_rate_by_domain
from tasks.report.data import Cost, RunRecord
from tasks.report.names import DOMAIN_TITLES
from tasks.report.plot import SvgFigure, canvas, color, to_svg
from tasks.report.recipe_figure import recipe_figure
from tasks.report.style import INK, MUTED
from tasks.report.tables import StageRow, duration


def figures(run: RunRecord) -> dict[str, SvgFigure]:
    """Name -> figure; those that the run has nothing for are left out."""
    rl = {n: m for n, m in run.curves.items() if "reward" in m}
    sft = {n: m for n, m in run.curves.items() if n not in rl and role(n) != "reward-models"}
    drawn: Mapping[str, SvgFigure | None] = {
        "recipe": recipe_figure(run.nodes, {row.node: row for row in run.rows}),
        "scores": score_dots(run.rows),
        "rl-curves": overlay(rl, RL_PANELS, "Training curves of the RL stages"),
        "rl-domains": pass_rate_by_domain(rl),
        "sft-curves": overlay(sft, SFT_PANELS, "Training curves of the fine-tuning stages"),
        "cost": cost_bars(run.costs),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def score_dots(rows: Sequence[StageRow]) -> SvgFigure | None:
    """pass@1 by domain with intervals, a row a checkpoint."""
    domains = [d for d in (*VERIFIABLE, "verifiable") if any(row.score(d, "pass_at_1") for row in rows)]
    if not domains:
        return None
    figure = canvas(24 * len(rows) + 50)
    panels = figure.subplots(1, len(domains), sharey=True, squeeze=False)[0]
    panels[0].set_yticks(range(len(rows)), [row.title for row in rows], color=INK)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    for axes, domain in zip(panels, domains, strict=True):
        _scores(axes, domain, rows)
    return to_svg(figure, "pass@1 by domain with 95% intervals")


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


def cost_bars(costs: Sequence[Cost]) -> SvgFigure:
    """Seconds by node."""
    total = sum(cost.seconds for cost in costs) or 1.0
    figure = canvas(24 * len(costs) + 8)
    axes = figure.add_subplot()
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
    return to_svg(figure, "Seconds by stage")
