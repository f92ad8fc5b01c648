"""The recipe as a figure (paper Fig. 2): each artifact of the run in its place, checkpoints with pass@1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from tasks.recipe import place, role, title
from tasks.report.data import ReportNode
from tasks.report.plot import SvgFigure, canvas, to_svg
from tasks.report.style import FAINT, MUTED, color
from tasks.report.tables import StageRow
from tasks.stage import Place

_STEP_X, _STEP_Y, _WIDTH, _HEIGHT = 178.0, 92.0, 146.0, 66.0
_ACROSS_FIRST = {("reward-models", "r1")}
"""Edges that bend and do not leave their box up or down."""


def recipe_svg(nodes: Iterable[ReportNode]) -> SvgFigure | None:
    """Return the figure without scores, as it stands beside an artifact; None where no node has a place."""
    figure = draw_recipe(nodes, {})
    return to_svg(figure, "The recipe of the run") if figure else None


def draw_recipe(nodes: Iterable[ReportNode], rows: Mapping[str, StageRow]) -> Figure | None:
    """Draw `nodes` with their edges, scored by `rows` (by node name); None where none has a place."""
    known = {role(n.name): n for n in nodes if place(n.name)}
    if not known:
        return None
    columns, lanes = zip(*((_place(name).column, _place(name).lane) for name in known), strict=True)
    left, right = min(columns) * _STEP_X - 2, max(columns) * _STEP_X + _WIDTH + 2
    top, bottom = min(lanes) * _STEP_Y - 2, max(lanes) * _STEP_Y + _HEIGHT + 2
    figure = canvas(bottom - top, right - left)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    for name, node in known.items():
        parents = sorted({role(p) for p in node.parents} & known.keys())
        for parent in parents:
            if not _place(parent).mark:
                _arrow(axes, parent, name)
        _box(axes, name, node, rows.get(node.name))
        _marks(axes, name, [_place(of).mark for of in (name, *parents)])
    return figure


def _marks(axes: Axes, name: str, marks: Iterable[str]) -> None:
    """The letters of the nodes that `name` is or was made from, in the upper right corner of its box."""
    at = _place(name)
    x, y = at.column * _STEP_X + _WIDTH - 10, at.lane * _STEP_Y + 18
    axes.text(x, y, " ".join(filter(None, marks)), fontsize=9.5, fontweight="bold", color=MUTED, ha="right")


def _arrow(axes: Axes, source: str, target: str) -> None:
    here, there = _place(source), _place(target)
    right = (there.column > here.column) - (there.column < here.column)
    down = (there.lane > here.lane) - (there.lane < here.lane)
    bends = right != 0 and down != 0
    across = down == 0 or (source, target) in _ACROSS_FIRST
    leaves = _border(source, right, 0) if across else _border(source, 0, down)
    arrives = _border(target, -right, 0) if across != bends else _border(target, 0, -down)
    turn = "angle,angleA=0,angleB=90" if across else "angle,angleA=90,angleB=0"
    look = {"arrowstyle": "-|>,head_width=.25,head_length=.5", "color": MUTED, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", arrives, leaves, arrowprops=look | {"connectionstyle": turn if bends else "arc3"})


def _border(name: str, right: int, down: int) -> tuple[float, float]:
    """The middle of one side of a box."""
    at = _place(name)
    return at.column * _STEP_X + _WIDTH * (1 + right) / 2, at.lane * _STEP_Y + _HEIGHT * (1 + down) / 2


def _place(name: str) -> Place:
    found = place(name)
    assert found is not None, name
    return found


def _box(axes: Axes, name: str, node: ReportNode, row: StageRow | None) -> None:
    at = _place(name)
    x, y = at.column * _STEP_X, at.lane * _STEP_Y
    edge = color(name) if row else FAINT
    shape = FancyBboxPatch((x, y), _WIDTH, _HEIGHT, "round,pad=0,rounding_size=6", ec=edge, fc="none", lw=1.4)
    axes.add_patch(shape)
    axes.text(x + 10, y + 19, title(node.name), fontsize=12, fontweight="bold")
    axes.text(x + 10, y + 36, at.how, fontsize=9.5, color=MUTED)
    score = row and row.score("verifiable", "pass_at_1")
    if not score:
        axes.text(x + 10, y + 55, node.digest[:8], fontsize=9.5, color=MUTED)
        return
    axes.text(x + 10, y + 56, f"{100 * score.value:.0f}%", fontsize=13, fontweight="bold", color=color(name))
    axes.text(x + 52, y + 56, f"{100 * score.low:.0f}–{100 * score.high:.0f}", fontsize=9.5, color=MUTED)
