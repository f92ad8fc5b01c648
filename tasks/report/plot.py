"""What the figures have in common: matplotlib's settings, and SVG text that is small and follows the theme.

Equal data makes equal bytes. The colours of lines serve a light page and a dark one; style rules turn the
ground, the words and the grid over.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from html import escape

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tasks.report.style import DARK, FAINT, FONT, INK, LIGHT, MUTED
from tasks.text_safety import for_page

WIDTH = 1040
"""Of every figure, in pixels of the page and points of the file."""

matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "r1", "text.parse_math": False,
    "font.family": "DejaVu Sans", "font.size": 10.5,
    "figure.facecolor": "none", "axes.facecolor": "none", "text.color": INK, "axes.edgecolor": MUTED,
    "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK,
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False,
    "axes.spines.bottom": False, "axes.grid": True, "axes.grid.axis": "y", "grid.color": FAINT,
    "xtick.bottom": False, "ytick.left": False, "xtick.color": MUTED, "ytick.color": MUTED,
    "figure.constrained_layout.h_pad": 0.11, "legend.frameon": False, "legend.labelcolor": MUTED,
})  # fmt: skip

_STYLE = (
    f"svg{{background:{LIGHT['paper']}}}text{{font-family:{FONT}}}"
    f"@media(prefers-color-scheme:dark){{svg{{background:{DARK['paper']}}}"
    f'text[style*="{INK}"]{{fill:{DARK["ink"]}!important}}'
    f'text[style*="{MUTED}"]{{fill:{DARK["muted"]}!important}}'
    f'path[style*="{FAINT}"]{{stroke:{DARK["faint"]}!important}}}}'
)
_POINT = re.compile(r"\b([ML]) (-?[\d.]+) (-?[\d.]+) ?\n?")
_NOISE = re.compile(
    r"^ +|<!--.*?-->\n| transform=\"rotate\(-0 .*?\"|font-family: 'DejaVu Sans'; ", re.MULTILINE
)
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class SvgFigure:
    """A figure as SVG that is a file of its own or a part of a page."""

    svg: str
    label: str
    """What a screen reader says."""


def canvas(height: float, width: float = WIDTH) -> Figure:
    """An empty figure; a point of its axes' text is a pixel of the page."""
    return Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")


def to_svg(figure: Figure, label: str) -> SvgFigure:
    """`figure` as text, coordinates to a tenth of a pixel."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=_NO_METADATA)
    text = _NOISE.sub("", for_page(file.getvalue()))
    text = _POINT.sub(lambda p: f"{p[1]}{float(p[2]):.1f} {float(p[3]):.1f}", text)
    tag, _, body = text[text.index("<svg") :].partition(">")
    head = f'{tag} role="img"><title>{escape(for_page(label))}</title><style>{_STYLE}</style>'
    return SvgFigure(head + body, label)


short_numbers = FuncFormatter(lambda v, _: f"{v / 1000:g}k" if abs(v) >= 10_000 else f"{v:.4g}")
