"""The report's figures by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.report.charts import Bar, Estimate, bars, dots
from tasks.report.curves import RL_PANELS, SFT_PANELS, Metrics, overlay, pass_rate_by_domain
from tasks.report.data import Cost, Run
from tasks.report.graph import recipe_figure
from tasks.report.names import DOMAIN_TITLES, VERIFIABLE, role, title
from tasks.report.svg import Figure
from tasks.report.tables import StageRow, duration


def figures(run: Run) -> dict[str, Figure]:
    """Name -> figure; those that the run has nothing for are left out."""
    rl = {n: m for n, m in run.curves.items() if "reward" in m}
    sft = {n: m for n, m in run.curves.items() if n not in rl and role(n) != "reward-models"}
    drawn: Mapping[str, Figure | None] = {
        "recipe": recipe_figure(run.nodes, {row.node: row for row in run.rows}),
        "scores": score_dots(run.rows),
        "rl-curves": overlay(rl, RL_PANELS, "Training curves of the RL stages"),
        "rl-domains": pass_rate_by_domain(rl),
        "sft-curves": _fine_tuning(sft),
        "cost": cost_bars(run.costs),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _fine_tuning(stages: Mapping[str, Metrics]) -> Figure | None:
    return overlay(stages, SFT_PANELS, "Training curves of the fine-tuning stages")


def score_dots(rows: Sequence[StageRow]) -> Figure | None:
    """pass@1 by domain with intervals."""
    groups = [
        (DOMAIN_TITLES[domain], estimates)
        for domain in VERIFIABLE
        if (estimates := [e for row in rows if (e := _estimate(row, domain))])
    ]
    return dots(groups, "pass@1 by domain with 95% intervals") if groups else None


def _estimate(row: StageRow, domain: str) -> Estimate | None:
    score = row.score(domain, "pass_at_1")
    return score and Estimate(row.title, role(row.node), score.value, score.low, score.high)


def cost_bars(costs: Sequence[Cost]) -> Figure:
    """Seconds by node."""
    total = sum(cost.seconds for cost in costs) or 1.0
    entries = [
        Bar(title(c.node), c.seconds, role(c.node), f"{duration(c.seconds)}  ({c.seconds / total:.0%})")
        for c in costs
    ]
    return bars(entries, "Seconds by stage")
