"""Line charts over training steps and dot charts with intervals, built from `tasks.report.svg`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tasks.report import svg

MAX_POINTS = 80
"""Points drawn of one line; longer series are averaged in equal bins."""
POINTS_IN_ALL = 2_600
"""Points of all lines of a grid, which bounds its size: crowded figures draw fewer of each."""


@dataclass(frozen=True)
class Series:
    label: str
    color: str
    """A name of the palette."""
    points: Sequence[tuple[float, float]]
    """(step, value), steps rising."""


@dataclass(frozen=True)
class Panel:
    """One small chart."""

    title: str
    series: Sequence[Series]
    floor: float | None = None
    """The value axis reaches at least down to this."""
    ceiling: float | None = None
    """The value axis reaches at least up to this."""


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points: means of equal runs of neighbours."""
    if len(points) <= limit:
        return list(points)
    edges = [round(i * len(points) / limit) for i in range(limit + 1)]
    return [_mean(points[a:b]) for a, b in pairwise(edges)]


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A centred moving mean over a tenth of the series."""
    half = len(points) // 20
    values = [y for _, y in points]
    return [
        (x, sum(window) / len(window))
        for i, (x, _) in enumerate(points)
        for window in [values[max(0, i - half) : i + half + 1]]
    ]


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def panel(spec: Panel, width: float, height: float, limit: int = MAX_POINTS) -> str:
    """The chart with its title and axes inside `width` x `height`."""
    left, top, right, bottom = 38.0, 26.0, 8.0, 20.0
    points = [p for s in spec.series for p in s.points]
    low, high = _range([y for _, y in points], spec)
    first, last = min(x for x, _ in points), max(x for x, _ in points)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        return left + across * (width - left - right), top + (high - y) / (high - low) * (
            height - top - bottom
        )

    parts = [svg.text(2, 13, spec.title, size=12, bold=True)]
    for tick in svg.ticks(low, high):
        y = place(first, tick)[1]
        parts += [svg.line(left, y, width - right, y, "faint")]
        parts += [svg.text(left - 5, y + 3.5, svg.short_number(tick), size=10, fill="muted", anchor="end")]
    for tick in svg.ticks(first, last):
        at = place(tick, low)[0]
        parts += [svg.text(at, height - 5, svg.short_number(tick), size=10, fill="muted", anchor="middle")]
    for series in spec.series:
        parts += _lines(series, place, limit)
    return "".join(parts)


def _lines(series: Series, place: Callable[[float, float], tuple[float, float]], limit: int) -> list[str]:
    if len(series.points) == 1:
        return [svg.dot(*place(*series.points[0]), series.color)]
    drawn = [place(*p) for p in thin(smooth(series.points), limit)]
    if len(series.points) < 20:
        return [svg.polyline(drawn, series.color)]
    raw = [place(*p) for p in thin(series.points, limit)]
    return [svg.polyline(raw, series.color, width=1, opacity=0.28), svg.polyline(drawn, series.color)]


def _range(values: Sequence[float], spec: Panel) -> tuple[float, float]:
    low = min(values) if spec.floor is None else min(spec.floor, *values)
    high = max(values) if spec.ceiling is None else max(spec.ceiling, *values)
    if high <= low:
        return low - 0.5, high + 0.5
    margin = 0.06 * (high - low)
    return (low if low == spec.floor else low - margin), (high if high == spec.ceiling else high + margin)


def grid(
    panels: Sequence[Panel], label: str, *, columns: int = 3, width: float = 1040, height: float = 168
) -> svg.Figure:
    """Panels of equal size, row by row, under one legend of the lines that share a panel."""
    gap = 22.0
    each = (width - gap * (columns - 1)) / columns
    rows = -(-len(panels) // columns)
    limit = max(2, min(MAX_POINTS, POINTS_IN_ALL // sum(len(p.series) for p in panels)))
    shared = [p for p in panels if len(p.series) > 1] or panels
    entries = list(dict.fromkeys((s.label, s.color) for p in shared for s in p.series))
    head = 26.0 if len(entries) > 1 else 4.0
    body = [svg.legend(entries, 2, 14)] if len(entries) > 1 else []
    for i, spec in enumerate(panels):
        row, column = divmod(i, columns)
        x, y = column * (each + gap), head + row * (height + 12)
        body.append(svg.group(x, y, panel(spec, each, height, limit)))
    return svg.Figure(width, head + rows * (height + 12), "".join(body), label)


@dataclass(frozen=True)
class Estimate:
    """A dot with its interval."""

    label: str
    color: str
    value: float
    low: float
    high: float


def dots(groups: Sequence[tuple[str, Sequence[Estimate]]], label: str, *, width: float = 1040) -> svg.Figure:
    """Shares from 0 to 1 by group, side by side: each estimate a row of its own, intervals as bars."""
    names = list(dict.fromkeys(e.label for _, estimates in groups for e in estimates))
    left, top, row_height, gap = 150.0, 30.0, 24.0, 20.0
    each = (width - left - gap * (len(groups) - 1) - 12) / len(groups)
    bottom = top + row_height * len(names)
    parts = [
        svg.text(left - 14, top + row_height * (i + 0.5) + 4, name, size=12, anchor="end")
        for i, name in enumerate(names)
    ]
    for g, (head, estimates) in enumerate(groups):
        x = left + g * (each + gap)
        parts.append(svg.text(x, 14, head, size=12, bold=True))
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
            at = x + share * each
            parts += [svg.line(at, top - 6, at, bottom, "faint")]
            parts += [svg.text(at, bottom + 14, f"{share:.0%}", size=10, fill="muted", anchor=anchor)]
        for estimate in estimates:
            y = top + row_height * (names.index(estimate.label) + 0.5)
            parts.append(_estimate(estimate, x, y, each))
    return svg.Figure(width, bottom + 22, "".join(parts), label)


def _estimate(e: Estimate, x: float, y: float, width: float) -> str:
    tip = f"{e.label}: {e.value:.1%} [{e.low:.1%}, {e.high:.1%}]"
    bar = svg.line(x + e.low * width, y, x + e.high * width, y, e.color, 2)
    ends = "".join(svg.line(x + v * width, y - 4, x + v * width, y + 4, e.color, 2) for v in (e.low, e.high))
    return bar + ends + svg.dot(x + e.value * width, y, e.color, 4.2, tip)


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    color: str
    note: str


def bars(entries: Sequence[Bar], label: str, *, width: float = 1040, left: float = 190) -> svg.Figure:
    """Horizontal bars from 0 on, each with a note behind it."""
    row_height = 24.0
    top = max((b.value for b in entries), default=0) or 1
    room = width - left - 170
    parts = []
    for i, b in enumerate(entries):
        y = i * row_height
        parts.append(svg.text(left - 12, y + 16, b.label, size=12, anchor="end"))
        parts.append(svg.rect(left, y + 5, max(1, b.value / top * room), 14, b.color, radius=2))
        parts.append(svg.text(left + b.value / top * room + 8, y + 16, b.note, size=11, fill="muted"))
    return svg.Figure(width, row_height * len(entries) + 4, "".join(parts), label)
