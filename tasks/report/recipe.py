"""The recipe as a figure (paper Fig. 2): each artifact of the run in its place, checkpoints with pass@1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from tasks.report.data import Node
from tasks.report.names import role, title
from tasks.report.plot import Drawing, canvas, color, to_svg
from tasks.report.style import FAINT, MUTED
from tasks.report.tables import StageRow

PLACES = {
    "base": (0, 1, "pretrained"),
    "r1-zero": (1, 0, "GRPO, rule rewards"),
    "cold-start": (2, 0, "sample, filter, refine"),
    "dev1": (2, 1, "SFT"),
    "dev2": (3, 1, "GRPO + language"),
    "mixture": (4, 1, "rejection sampling"),
    "dev3": (4, 2, "SFT"),
    "reward-models": (4, 3, "helpful, safety"),
    "r1": (5, 2, "GRPO, rules + RMs"),
    "student-distilled": (5, 1, "SFT"),
    "student-base": (5, 0, "pretrained"),
    "student-rl-only": (4, 0, "GRPO, rule rewards"),
}
"""Role -> column, lane and how it is made. Every edge of the recipe is straight or bends once."""

_STEP_X, _STEP_Y, _WIDTH, _HEIGHT = 178.0, 92.0, 146.0, 66.0
_ACROSS_FIRST = {("reward-models", "r1")}
"""Edges that bend and do not leave their box up or down."""


def recipe_figure(nodes: Iterable[Node], rows: Mapping[str, StageRow]) -> Drawing | None:
    """`nodes` with their edges, scored by `rows` (by node name); None where none has a place."""
    known = {role(n.name): n for n in nodes if role(n.name) in PLACES}
    if not known:
        return None
    columns, lanes, _ = zip(*(PLACES[name] for name in known), strict=True)
    left, right = min(columns) * _STEP_X - 2, max(columns) * _STEP_X + _WIDTH + 2
    top, bottom = min(lanes) * _STEP_Y - 2, max(lanes) * _STEP_Y + _HEIGHT + 2
    figure = canvas(bottom - top, right - left)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    for name, node in known.items():
        for parent in sorted({role(p) for p in node.parents} & known.keys()):
            _arrow(axes, parent, name)
        _box(axes, name, node, rows.get(node.name))
    return to_svg(figure, "The recipe of the run")


def _arrow(axes: Axes, source: str, target: str) -> None:
    (column, lane, _), (to_column, to_lane, _) = PLACES[source], PLACES[target]
    right, down = (to_column > column) - (to_column < column), (to_lane > lane) - (to_lane < lane)
    bends = right != 0 and down != 0
    across = down == 0 or (source, target) in _ACROSS_FIRST
    leaves = _border(source, right, 0) if across else _border(source, 0, down)
    arrives = _border(target, -right, 0) if across != bends else _border(target, 0, -down)
    turn = "angle,angleA=0,angleB=90" if across else "angle,angleA=90,angleB=0"
    look = {"arrowstyle": "-|>,head_width=.25,head_length=.5", "color": MUTED, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", arrives, leaves, arrowprops=look | {"connectionstyle": turn if bends else "arc3"})


def _border(name: str, right: int, down: int) -> tuple[float, float]:
    """The middle of one side of a box."""
    column, lane, _ = PLACES[name]
    return column * _STEP_X + _WIDTH * (1 + right) / 2, lane * _STEP_Y + _HEIGHT * (1 + down) / 2


def _box(axes: Axes, name: str, node: Node, row: StageRow | None) -> None:
    column, lane, how = PLACES[name]
    x, y = column * _STEP_X, lane * _STEP_Y
    edge = color(name) if row else FAINT
    shape = FancyBboxPatch((x, y), _WIDTH, _HEIGHT, "round,pad=0,rounding_size=6", ec=edge, fc="none", lw=1.4)
    axes.add_patch(shape)
    axes.text(x + 10, y + 19, title(node.name), fontsize=12, fontweight="bold")
    axes.text(x + 10, y + 36, how, fontsize=9.5, color=MUTED)
    score = row and row.score("verifiable", "pass_at_1")
    if not score:
        axes.text(x + 10, y + 55, node.digest[:8], fontsize=9.5, color=MUTED)
        return
    axes.text(x + 10, y + 56, f"{100 * score.value:.0f}%", fontsize=13, fontweight="bold", color=color(name))
    axes.text(x + 52, y + 56, f"{100 * score.low:.0f}–{100 * score.high:.0f}", fontsize=9.5, color=MUTED)
