"""Small SVG charts written as text: light to make, light to ship, and they follow the page's theme.

No plotting library: the process of a flow draws curves without importing one, and every colour is a
CSS variable, so the same figure serves a light page, a dark one and a file of its own.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

LIGHT = {
    "paper": "#ffffff", "panel": "#f7f7f5", "ink": "#1d2126", "muted": "#626a73", "faint": "#dcdfe3",
    "good": "#1f7a4d", "bad": "#b3372b", "unsure": "#8a6d1a",
    "base": "#868d96", "r1-zero": "#c8591b", "dev1": "#6aa79c", "dev2": "#157567", "dev3": "#7f9fd6",
    "r1": "#2450a6", "student-base": "#b9a6c9", "student-distilled": "#7b3fa0", "student-rl-only": "#bb4680",
    "math": "#2450a6", "code": "#c8591b", "stem": "#157567", "logic": "#bb4680", "general": "#868d96",
    "verifiable": "#1d2126",
}  # fmt: skip
DARK = {
    "paper": "#14171a", "panel": "#1c2024", "ink": "#e8eaed", "muted": "#9aa3ad", "faint": "#353b42",
    "good": "#5cc48f", "bad": "#ee8074", "unsure": "#d9b755",
    "base": "#9aa3ad", "r1-zero": "#f08c4a", "dev1": "#7fbfb3", "dev2": "#35b3a0", "dev3": "#9db8ea",
    "r1": "#6f9bf0", "student-base": "#c9b8d8", "student-distilled": "#b57edb", "student-rl-only": "#e57fb2",
    "math": "#6f9bf0", "code": "#f08c4a", "stem": "#35b3a0", "logic": "#e57fb2", "general": "#9aa3ad",
    "verifiable": "#e8eaed",
}  # fmt: skip

FONT = (
    "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','Noto Sans CJK SC','DejaVu Sans',sans-serif"
)
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Noto Sans Mono CJK SC',monospace"


def variables(palette: dict[str, str]) -> str:
    """CSS declarations of the palette."""
    return ";".join(f"--{name}:{value}" for name, value in palette.items())


def color(name: str) -> str:
    """A CSS colour by palette name; unknown names are drawn in grey."""
    return f"var(--{name})" if name in LIGHT else "var(--muted)"


@dataclass(frozen=True)
class Figure:
    """A drawing of `width` x `height` pixels; `body` is SVG elements that use the palette's variables."""

    width: float
    height: float
    body: str
    label: str
    """What a screen reader says."""

    def inline(self) -> str:
        """For a page that declares the palette."""
        return f"{self._open()}{self.body}</svg>"

    def standalone(self, *, dark: bool = True) -> str:
        """A file of its own; with `dark` it follows the reader's theme, otherwise it stays light."""
        style = f"svg{{{variables(LIGHT)};font-family:{FONT}}}"
        if dark:
            style += f"@media(prefers-color-scheme:dark){{svg{{{variables(DARK)}}}}}"
        ground = rect(0, 0, self.width, self.height, "paper", radius=6)
        return f"{self._open()}<style>{style}</style>{ground}{self.body}</svg>\n"

    def _open(self) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {num(self.width)} {num(self.height)}" '
            f'width="{num(self.width)}" role="img" aria-label="{html.escape(self.label)}">'
        )


def num(value: float) -> str:
    """At most one decimal: a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def rect(
    x: float, y: float, width: float, height: float, fill: str, *, stroke: str = "", radius: float = 0
) -> str:
    border = f";stroke:{color(stroke)};stroke-width:1.2" if stroke else ""
    return (
        f'<rect x="{num(x)}" y="{num(y)}" width="{num(max(width, 0))}" height="{num(height)}" '
        f'rx="{num(radius)}" style="fill:{color(fill)}{border}"/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1) -> str:
    return (
        f'<line x1="{num(x1)}" y1="{num(y1)}" x2="{num(x2)}" y2="{num(y2)}" '
        f'style="stroke:{color(stroke)};stroke-width:{num(width)}"/>'
    )


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: float = 11,
    fill: str = "ink",
    anchor: str = "start",
    bold: bool = False,
    mono: bool = False,
) -> str:
    extra = (";font-weight:600" if bold else "") + (f";font-family:{MONO}" if mono else "")
    return (
        f'<text x="{num(x)}" y="{num(y)}" text-anchor="{anchor}" '
        f'style="font-size:{num(size)}px;fill:{color(fill)}{extra}">{html.escape(words)}</text>'
    )


def polyline(
    points: Sequence[tuple[float, float]], stroke: str, *, width: float = 1.6, opacity: float = 1
) -> str:
    path = " ".join(f"{num(x)},{num(y)}" for x, y in points)
    return (
        f'<polyline points="{path}" style="fill:none;stroke:{color(stroke)};stroke-width:{num(width)};'
        f'stroke-opacity:{opacity:g};stroke-linejoin:round;stroke-linecap:round"/>'
    )


def dot(x: float, y: float, fill: str, radius: float = 3.2, tip: str = "") -> str:
    title = f"<title>{html.escape(tip)}</title>" if tip else ""
    return (
        f'<circle cx="{num(x)}" cy="{num(y)}" r="{num(radius)}" style="fill:{color(fill)}">{title}</circle>'
    )


def group(x: float, y: float, *parts: str) -> str:
    """`parts` moved to (x, y)."""
    return f'<g transform="translate({num(x)} {num(y)})">{"".join(parts)}</g>'


def legend(entries: Sequence[tuple[str, str]], x: float, y: float) -> str:
    """One row of (words, colour) from (x, y) on."""
    parts = []
    for words, stroke in entries:
        parts += [line(x, y - 4, x + 14, y - 4, stroke, 2.4), text(x + 19, y, words, fill="muted")]
        x += 34 + text_width(words, 11)
    return "".join(parts)


def text_width(words: str, size: float) -> float:
    """Roughly, in pixels: wide characters count double."""
    return sum(1.0 if ord(c) > 0x2E80 else 0.56 for c in words) * size


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = min((unit * m for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def short_number(value: float) -> str:
    """`0.35`, `12`, `1.5k`, `2e-06`."""
    if value and (abs(value) < 1e-3):
        return f"{value:.0e}"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
