"""The recipe as a figure: each checkpoint with its pass@1, each edge as the manifests have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.report import svg
from tasks.report.names import role, title
from tasks.report.tables import StageRow

BOX_WIDTH, BOX_HEIGHT = 180.0, 66.0
_COLUMNS = (2.0, 286.0, 572.0, 856.0)
_LANES = (8.0, 126.0, 244.0, 362.0)

PLACES = {
    "base": (0, 1),
    "r1-zero": (1, 0),
    "cold-start": (2, 0),
    "dev1": (1, 1),
    "dev2": (2, 1),
    "mixture": (3, 1),
    "dev3": (1, 2),
    "r1": (2, 2),
    "reward-models": (3, 2),
    "student-rl-only": (1, 3),
    "student-base": (2, 3),
    "student-distilled": (3, 3),
}
"""Role -> (column, lane)."""

_EDGE_WORDS = {
    ("base", "r1-zero"): ("GRPO", "rules"),
    ("r1-zero", "cold-start"): ("sample,", "filter, refine"),
    ("base", "dev1"): ("SFT", ""),
    ("dev1", "dev2"): ("GRPO", "+ language"),
    ("dev2", "mixture"): ("rejection", "sampling"),
    ("base", "dev3"): ("SFT", ""),
    ("dev3", "r1"): ("GRPO, RMs", "at the end"),
    ("student-base", "student-rl-only"): ("GRPO", ""),
    ("student-base", "student-distilled"): ("SFT", ""),
}
_NOTES = {"reward-models": "helpful, safety", "cold-start": "data set", "mixture": "data set"}
_NARROW = {"reward-models": 132.0}


@dataclass(frozen=True)
class Node:
    """One artifact of the run."""

    name: str
    digest: str
    parents: tuple[str, ...]
    """Names of the nodes it was made from."""


def recipe_figure(nodes: Iterable[Node], rows: Mapping[str, StageRow]) -> svg.Figure | None:
    """`nodes` at their places of the paper's Fig. 2, `rows` by node name; None where none has a place."""
    known = {role(n.name): n for n in nodes if role(n.name) in PLACES}
    if not known:
        return None
    edges = [
        _edge(role(parent), name)
        for name, node in known.items()
        for parent in node.parents
        if role(parent) in known
    ]
    boxes = [_box(name, node, rows.get(node.name)) for name, node in known.items()]
    return _cropped("".join(edges + boxes), list(known))


def _cropped(body: str, names: Sequence[str]) -> svg.Figure:
    """The drawing without the empty columns and lanes around it."""
    columns, lanes = zip(*(PLACES[name] for name in names), strict=True)
    left, top = _COLUMNS[min(columns)] - 2, _LANES[min(lanes)] - 8
    right, bottom = _COLUMNS[max(columns)] + BOX_WIDTH + 4, _LANES[max(lanes)] + BOX_HEIGHT + 8
    if max(lanes) < len(_LANES) - 1:
        bottom += 20  # the edge to the reward models runs below its lane
    return svg.Figure(right - left, bottom - top, svg.group(-left, -top, body), "The recipe of the run")


def _corner(name: str) -> tuple[float, float, float]:
    """Left, top and width of a box."""
    column, lane = PLACES[name]
    return _COLUMNS[column], _LANES[lane], _NARROW.get(name, BOX_WIDTH)


def _box(name: str, node: Node, row: StageRow | None) -> str:
    x, y, width = _corner(name)
    parts = [
        svg.rect(x, y, width, BOX_HEIGHT, "panel", stroke=name if row else "faint", radius=6),
        svg.text(x + 12, y + 20, title(node.name), size=13, bold=True),
        svg.text(
            x + width - 10,
            y + (42 if row else 56),
            node.digest[:6],
            size=9.5,
            fill="muted",
            anchor="end",
            mono=True,
        ),
    ]
    return "".join([*parts, _score(name, row, x, y) if row else _note(name, x, y)])


def _note(name: str, x: float, y: float) -> str:
    words = _NOTES.get(name, "checkpoint")
    return svg.text(x + 12, y + 42, words, fill="muted")


def _score(name: str, row: StageRow, x: float, y: float) -> str:
    score = row.score("verifiable", "pass_at_1")
    if score is None:
        return svg.text(x + 12, y + 42, "not evaluated", fill="muted")
    left, room = x + 12, BOX_WIDTH - 24
    words = f"{100 * score.value:.0f}%"
    interval = f"{100 * score.low:.0f}–{100 * score.high:.0f}"
    return "".join(
        [
            svg.text(left, y + 42, words, size=15, bold=True, fill=name),
            svg.text(left + 40, y + 42, interval, size=10.5, fill="muted"),
            svg.rect(left, y + 51, room, 5, "faint", radius=2.5),
            svg.rect(left, y + 51, room * score.value, 5, name, radius=2.5),
        ]
    )


def _edge(source: str, target: str) -> str:
    path, label_at = _route(source, target)
    words = _EDGE_WORDS.get((source, target), ("", ""))
    parts = [
        f'<path d="{path}" style="fill:none;stroke:var(--muted);stroke-width:1.2"/>',
        _arrow_head(path),
    ]
    if label_at:
        x, y = label_at
        parts += [
            svg.text(x, y - 6, words[0], size=10.5, fill="muted", anchor="middle"),
            svg.text(x, y + 14, words[1], size=10.5, fill="muted", anchor="middle"),
        ]
    return "".join(parts)


def _route(source: str, target: str) -> tuple[str, tuple[float, float] | None]:
    """An SVG path of right angles, and where its words stand."""
    sx, sy, sw = _corner(source)
    tx, ty, tw = _corner(target)
    middle, target_middle = sy + BOX_HEIGHT / 2, ty + BOX_HEIGHT / 2
    if (source, target) == ("dev3", "reward-models"):
        under = sy + BOX_HEIGHT + 20
        return f"M{sx + sw / 2} {sy + BOX_HEIGHT} V{under} H{tx + tw / 2} V{ty + BOX_HEIGHT + 1}", None
    if (source, target) == ("mixture", "student-distilled"):
        drop = sx + sw - 18
        return f"M{drop} {sy + BOX_HEIGHT} V{ty - 1}", None
    if tx > sx and (ty == sy or source == "base"):
        turn = sx + sw + 22
        at = (turn + tx) / 2 - 4 if source == "base" else (sx + sw + tx) / 2 - 3
        return f"M{sx + sw} {middle} H{turn} V{target_middle} H{tx - 1}", (at, target_middle)
    if ty == sy:
        return f"M{sx} {middle} H{tx + tw + 1}", ((sx + tx + tw) / 2 + 3, middle)
    between = sy + BOX_HEIGHT + (ty - sy - BOX_HEIGHT) / 2
    return f"M{sx + sw / 2} {sy + BOX_HEIGHT} V{between} H{tx + tw / 2} V{ty - 1}", None


def _arrow_head(path: str) -> str:
    """A triangle at the end of a path of `M x y`, `H x` and `V y`."""
    x = y = back = 0.0
    last = "H"
    for step in path.split():
        if step[0] in "HV":
            last, here = step[0], float(step[1:])
            back = -1 if here > (x if last == "H" else y) else 1
            x, y = (here, y) if last == "H" else (x, here)
        elif step[0] == "M":
            x = float(step[1:])
        else:
            y = float(step)
    a, b = 6 * back, 3.4
    points = (
        f"{x},{y} {x + a},{y - b} {x + a},{y + b}"
        if last == "H"
        else f"{x},{y} {x - b},{y + a} {x + b},{y + a}"
    )
    return f'<polygon points="{points}" style="fill:var(--muted)"/>'
