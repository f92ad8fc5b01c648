"""Training curves from `metrics` tables: one stage alone, or the stages of a recipe over each other.

python -m tasks.report.curves ARTIFACT_FOLDER OUT.svg
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tasks.problem import VERIFIABLE
from tasks.recipe import role, title
from tasks.report.names import DOMAIN_TITLES
from tasks.report.plot import SvgFigure, canvas, short_numbers, to_svg
from tasks.report.style import MUTED, color

if TYPE_CHECKING:
    from tasks.report.data import Metrics

Points = Sequence[tuple[float, float]]
"""(step, value), steps rising."""

MAX_POINTS = 70
"""Points drawn of one line, first and last among them."""
POINTS_IN_ALL = 2_000
"""Points of all pale lines of a figure, which bounds its size: crowded figures draw fewer of each."""

PANELS = {
    "reward": ("Reward", 0.0, None),
    "pass_rate": ("Pass rate in training", 0.0, 1.0),
    "completion_length": ("Completion length (tokens)", 0.0, None),
    "language_consistency": ("Language consistency", None, 1.0),
    "reflective_words": ("Reflective words a completion", 0.0, None),
    "entropy": ("Entropy (nats a token)", 0.0, None),
    "kl": ("KL to the reference", 0.0, None),
    "truncated_share": ("Truncated completions", 0.0, None),
    "zero_spread_share": ("Groups without spread", 0.0, 1.0),
    "loss": ("Loss", None, None),
    "token_accuracy": ("Token accuracy", None, 1.0),
    "helpful_loss": ("Helpful model's loss", 0.0, None),
    "safety_loss": ("Safety model's loss", 0.0, None),
}
"""Metric -> title, and the bounds that its axis ends at."""
EVALUATION_PANELS = {
    "pass_at_1": ("pass@1", 0.0, 1.0),
    "cons_at_k": ("cons@k", 0.0, 1.0),
    "length": ("Completion length (tokens)", 0.0, None),
    "reflective_words": PANELS["reflective_words"],
    "language_consistency": PANELS["language_consistency"],
    "format": ("Format", 0.0, 1.0),
}
"""The same for the metrics of evaluations during training; `cons_at_k` stands for any number of samples."""
ALONE = ""
"""Name of a line that stands for its whole panel. It is grey: the colours of stages and those of domains are
partly the same, and a reward in the colour of code would read as the reward of code."""
_OWN: Mapping[str, str] = {}
"""Every line has the colour of its stage or domain."""
_STEPS = (1, 2, 2.5, 5, 10)
STEP_NAMES = {True: "policy update", False: "optimizer step"}
"""Whether a stage logs a reward, as only RL does -> what its steps are."""
SFT_PANELS = ("loss", "token_accuracy")
_REWARD_MODEL_PANELS = ("helpful_loss", "safety_loss")
RL_PANELS = tuple(name for name in PANELS if name not in SFT_PANELS + _REWARD_MODEL_PANELS)


@dataclass(frozen=True)
class Panel:
    """One small chart."""

    title: str
    lines: Mapping[str, Points]
    """By role or domain, which is also its colour; `ALONE` for the one line that the title names."""
    floor: float | None = None
    ceiling: float | None = None


def overlay(
    stages: Mapping[str, Metrics], names: Sequence[str], colors: Mapping[str, str] = _OWN
) -> Figure | None:
    """A panel a metric, a line a stage or what else has one of `colors`; None where none has any of them."""
    lines = {n: {node: m[n] for node, m in stages.items() if m.get(n)} for n in names}
    return _grid([_panel(name, found) for name, found in lines.items() if found], colors=colors)


def evaluations(stages: Mapping[str, Metrics], colors: Mapping[str, str] = _OWN) -> Figure | None:
    """A panel a metric, a line a stage, by the step of its training at which it was evaluated."""
    lines: dict[str, dict[str, Points]] = {name: {} for name in EVALUATION_PANELS}
    for node, metrics in stages.items():
        for metric, points in metrics.items():
            name = "cons_at_k" if metric.startswith("cons_at_") else metric
            if name in lines:
                lines[name][node] = points
    return _grid(
        [Panel(t, lines[n], low, high) for n, (t, low, high) in EVALUATION_PANELS.items() if lines[n]],
        colors=colors,
    )


def pass_rate_by_domain(stages: Mapping[str, Metrics]) -> Figure | None:
    """A panel a stage, a line a domain."""
    lines = {node: _by_domain(metrics) for node, metrics in stages.items()}
    panels = [Panel(title(node), found, 0.0, 1.0) for node, found in lines.items() if found]
    return _grid(panels, columns=4)


def one_stage(node: str, metrics: Metrics, evaluation: Metrics | None = None) -> SvgFigure | None:
    """Everything worth seeing of one stage's training; None where nothing was logged.

    `evaluation` are the metrics of held-out questions by step (`tasks.rl.evaluation`).
    """
    panels = [
        Panel(words, {ALONE: points}, 0.0, ceiling)
        for name, points in (evaluation or {}).items()
        for words, ceiling in _held_out(name)
    ]
    panels += [_panel(name, {ALONE: metrics[name]}) for name in PANELS if metrics.get(name)]
    if domains := _by_domain(metrics):
        panels.append(Panel("Pass rate by domain", domains, 0.0, 1.0))
    figure = _grid(panels, shared_legend=False)
    if figure is None:
        return None
    label = f"Training curves of {title(node)}"
    figure.suptitle(label, x=0.008, ha="left", fontsize=13, fontweight="bold")
    figure.supxlabel(STEP_NAMES["reward" in metrics], fontsize=10.5, color=MUTED)
    return to_svg(figure, label)


def _held_out(name: str) -> Iterator[tuple[str, float | None]]:
    """Title and upper bound of the panel of an evaluation's metric, if it has one: pass@1, cons@k, length."""
    if name.startswith(("pass_at_", "cons_at_")):
        yield f"Held-out questions: {name.replace('_at_', '@')}", 1.0
    elif name == "length":
        yield "Held-out questions: tokens", None


def _panel(name: str, lines: Mapping[str, Points]) -> Panel:
    words, floor, ceiling = PANELS[name]
    return Panel(words, lines, floor, ceiling)


def _by_domain(metrics: Metrics) -> dict[str, Points]:
    return {d: metrics[f"pass_rate_{d}"] for d in VERIFIABLE if metrics.get(f"pass_rate_{d}")}


def _grid(
    panels: Sequence[Panel],
    *,
    columns: int = 3,
    shared_legend: bool = True,
    colors: Mapping[str, str] = _OWN,
) -> Figure | None:
    """Panels of equal size, row by row, under one legend of all lines; or each panel with its own legend,
    where not all panels show the same kind of lines."""
    if not panels:
        return None
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    limit = max(4, min(MAX_POINTS, POINTS_IN_ALL // sum(len(p.lines) for p in panels)))
    figure = canvas(168 * rows + (24 if shared_legend else 44))
    drawn: dict[str, Line2D] = {}
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        lines = _draw(axes, panel, limit, colors)
        if shared_legend:
            drawn |= lines
        elif len(lines) > 1:
            axes.legend(list(lines.values()), _names(lines), loc="lower right", ncols=2, fontsize=9.5)
    if drawn:
        figure.legend(list(drawn.values()), _names(drawn), loc="outside upper left", ncols=len(drawn))
    return figure


def _names(lines: Iterable[str]) -> list[str]:
    return [DOMAIN_TITLES.get(name) or title(name) for name in lines]


def _draw(axes: Axes, panel: Panel, limit: int, colors: Mapping[str, str]) -> dict[str, Line2D]:
    """Each line pale step by step and strong as a moving mean; the strong ones by name."""
    strong = {}
    for name, points in panel.lines.items():
        series, hue = np.array(points, dtype=float), colors.get(name) or color(role(name))
        if len(series) >= 20:
            axes.plot(*thin(series, limit).T, color=hue, clip_on=False, linewidth=1, alpha=0.35)
        mean = thin(np.column_stack([series[:, 0], smooth(series[:, 1])]), limit // 2)
        form = "." if len(mean) == 1 else "-"
        (strong[name],) = axes.plot(*mean.T, form, color=hue, clip_on=False, linewidth=1.7)
    _scale(axes, panel)
    return strong


def _scale(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=_STEPS, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
    axes.xaxis.set_major_formatter(short_numbers)
    axes.yaxis.set_major_formatter(short_numbers)
    low, high = axes.dataLim.intervaly
    if panel.floor is not None and low >= panel.floor:
        axes.set_ylim(bottom=panel.floor)
    if panel.ceiling is not None and high <= panel.ceiling:
        axes.set_ylim(top=panel.ceiling)


def thin(series: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` rows at equal distances, first and last among them."""
    return series[np.linspace(0, len(series) - 1, min(limit, len(series))).round().astype(int)]


def smooth(values: np.ndarray) -> np.ndarray:
    """A centred moving mean over a tenth of the series, shorter at its ends."""
    window = np.ones(2 * (len(values) // 20) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def main(artifact: Path, out: Path) -> None:
    """Write the curves of the artifact in folder `artifact`."""
    from artifacts.manifest import MANIFEST_NAME, Manifest
    from artifacts.tables import read_table
    from tasks.report.data import by_name

    node = Manifest.parse((artifact / MANIFEST_NAME).read_bytes(), str(artifact)).node
    drawing = one_stage(node, by_name(read_table(artifact / "metrics")))
    if drawing is None:
        sys.exit(f"{artifact}/metrics.parquet holds no training metric that is drawn")
    out.write_text(drawing.svg)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
