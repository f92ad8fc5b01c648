"""The page of a comparison of two runs (`tasks.report.comparison`): one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.recipe import title
from tasks.report.comparison import Comparison, ScoreDifference
from tasks.report.curves import RL_PANELS, SFT_PANELS, evaluations, overlay
from tasks.report.pages import environment
from tasks.report.plot import SvgFigure, canvas, to_svg
from tasks.report.style import COMPARED, INK, MUTED
from tasks.text_safety import for_page

_HEADS = ("Math", "Code", "STEM", "Logic", "All")
"""The measures of the figure, as the stage table calls them."""


def comparison_page(comparison: Comparison) -> str:
    """Return the comparison as HTML."""
    template = environment(for_page).get_template("compare.html.jinja")
    return template.render(
        c=comparison,
        differences=_svg(draw_differences(comparison), "Differences of pass@1 with 95% intervals"),
        curves=list(_curves(comparison)),
        colors=dict(zip((comparison.one, comparison.other), COMPARED, strict=False)),
    ).lstrip()


def draw_differences(comparison: Comparison) -> Figure | None:
    """Draw a panel a domain and a row a checkpoint; None where no checkpoint was evaluated in both."""
    scores = [score for score in comparison.scores if score.head in _HEADS]
    heads = [head for head in _HEADS if any(score.head == head for score in scores)]
    nodes = list(dict.fromkeys(score.node for score in scores))
    if not nodes:
        return None
    drawing = canvas(26 * len(nodes) + 60)
    panels = drawing.subplots(1, len(heads), sharex=True, sharey=True, squeeze=False)[0]
    panels[0].set_yticks(range(len(nodes)), [title(node) for node in nodes], color=INK)
    panels[0].set_ylim(len(nodes) - 0.5, -0.5)
    for axes, head in zip(panels, heads, strict=True):
        _draw_panel(axes, head, nodes, [score for score in scores if score.head == head])
    return drawing


def _draw_panel(axes: Axes, head: str, nodes: list[str], scores: list[ScoreDifference]) -> None:
    axes.set_title(head)
    axes.grid(axis="x")
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}" if value else "0")
    for score in scores:
        found, place = score.difference, nodes.index(score.node)
        value, low, high = (100 * n for n in (found.value, found.low, found.high))
        hue = COMPARED[1] if found.value > 0 else COMPARED[0]
        axes.errorbar(
            value, place, xerr=[[value - low], [high - value]], fmt="o", color=hue if score.clear else MUTED,
            elinewidth=2, capsize=4,
        )  # fmt: skip


def _curves(comparison: Comparison) -> Iterator[tuple[str, list[SvgFigure]]]:
    """A node's title with its figures."""
    names = (comparison.one, comparison.other)
    colors = dict(zip(names, COMPARED, strict=False))
    for node, both in comparison.curves.items():
        panels = RL_PANELS if any("reward" in metrics for metrics in both) else SFT_PANELS
        held_out = comparison.evaluation_curves.get(node)
        drawings = [
            (evaluations(dict(zip(names, held_out, strict=True)), colors) if held_out else None,
             f"Evaluation of {title(node)} during training in both runs"),
            (overlay(dict(zip(names, both, strict=True)), panels, colors),
             f"Training curves of {title(node)} in both runs"),
        ]  # fmt: skip
        if figures := [to_svg(drawing, label) for drawing, label in drawings if drawing]:
            yield title(node), figures


def _svg(figure: Figure | None, label: str) -> SvgFigure | None:
    return to_svg(figure, label) if figure else None
