"""Training curves from `metrics` tables: one stage alone, or the stages of a recipe over each other.

python -m tasks.report.curves ARTIFACT_FOLDER OUT.svg
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.report.charts import Panel, Series, grid
from tasks.report.names import DOMAIN_TITLES, VERIFIABLE, role, title
from tasks.report.svg import Figure

if TYPE_CHECKING:
    import pyarrow as pa

Metrics = Mapping[str, Sequence[tuple[float, float]]]
"""Metric name -> (step, value), steps rising."""

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
}
"""Metric -> title, lowest and highest value that the axis shows at least."""
SFT_PANELS = ("loss", "token_accuracy")
RL_PANELS = tuple(name for name in PANELS if name not in SFT_PANELS)


def by_name(table: pa.Table) -> dict[str, list[tuple[float, float]]]:
    """The curves of a `metrics` table; of a step logged twice the last value counts."""
    curves: dict[str, dict[float, float]] = {}
    columns = (table.column(c).to_pylist() for c in ("step", "name", "value"))
    for step, name, value in zip(*columns, strict=True):
        if value == value:
            curves.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in curves.items()}


def overlay(stages: Mapping[str, Metrics], names: Sequence[str], label: str) -> Figure | None:
    """A panel a metric, a line a stage; None where no stage has any of them."""
    panels = [
        Panel(PANELS[name][0], lines, PANELS[name][1], PANELS[name][2])
        for name in names
        if (lines := [Series(title(n), role(n), m[name]) for n, m in stages.items() if m.get(name)])
    ]
    return grid(panels, label) if panels else None


def pass_rate_by_domain(stages: Mapping[str, Metrics]) -> Figure | None:
    """A panel a stage, a line a domain."""
    panels = [
        Panel(f"{title(node)}: pass rate", lines, 0.0, 1.0)
        for node, metrics in stages.items()
        if (lines := _domain_lines(metrics))
    ]
    return grid(panels, "Pass rate in training by domain", columns=max(2, len(panels))) if panels else None


def one_stage(node: str, metrics: Metrics) -> Figure | None:
    """Everything worth seeing of one stage's training; None where nothing was logged."""
    panels = [
        Panel(words, [Series(title(node), role(node), metrics[name])], floor, ceiling)
        for name, (words, floor, ceiling) in PANELS.items()
        if metrics.get(name)
    ]
    if lines := _domain_lines(metrics):
        panels.append(Panel("Pass rate by domain", lines, 0.0, 1.0))
    return grid(panels, f"Training curves of {title(node)}") if panels else None


def _domain_lines(metrics: Metrics) -> list[Series]:
    return [
        Series(DOMAIN_TITLES[d], d, metrics[f"pass_rate_{d}"])
        for d in VERIFIABLE
        if metrics.get(f"pass_rate_{d}")
    ]


def main(artifact: Path, out: Path) -> None:
    """Write the curves of the artifact in folder `artifact`."""
    import json

    import pyarrow.parquet as pq

    node = json.loads((artifact / "manifest.json").read_text())["node"]
    figure = one_stage(node, by_name(pq.read_table(artifact / "metrics.parquet")))
    if figure is None:
        sys.exit(f"{artifact}/metrics.parquet holds no training metric that is drawn")
    out.write_text(figure.standalone())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
