"""What became of the rows of a curation, step by step: in = kept + dropped, always.

A stage that filters rows collects its steps in a `Funnel` and leaves them as `funnel.parquet`. The flow shows
that table in the Prefect UI, and the report draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from artifacts.tables import conform, read_table, write_table
from tasks.tables import FUNNEL


@dataclass(frozen=True)
class FunnelStep:
    """Rows that entered a step, rows that left it, and how many each reason dropped.

    Raises:
        ValueError: the numbers do not add up.
    """

    name: str
    """What was done, in a few words: `exact duplicates`, `readable`."""
    rows_in: int
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    """By the reason that column `reason` of `rejected.parquet` holds."""

    @property
    def reasons(self) -> str:
        """`duplicate 3, wrong answer 2`, most frequent first."""
        by_rows = sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in by_rows)

    def __post_init__(self) -> None:
        if self.rows_in != self.kept + sum(self.dropped.values()):
            raise ValueError(
                f"funnel step {self.name!r}: {self.rows_in} rows in are not {self.kept} kept and "
                f"{sum(self.dropped.values())} dropped: count every row once"
            )


class Funnel:
    """The steps of a stage, in order."""

    def __init__(self) -> None:
        self.steps: list[FunnelStep] = []

    def add(self, name: str, kept: int, dropped: Mapping[str, int]) -> None:
        """A step that everything entered which it kept or dropped; reasons with 0 rows are left out."""
        counted = {reason: n for reason, n in sorted(dropped.items()) if n}
        self.steps.append(FunnelStep(name, kept + sum(counted.values()), kept, counted))

    def write(self, folder: Path) -> None:
        """Leave `funnel.parquet`: for each step a row `in`, a row for each reason, and a row `kept`."""
        rows = [
            {"position": position, "step": step.name, "outcome": outcome, "rows": count}
            for position, step in enumerate(self.steps)
            for outcome, count in (("in", step.rows_in), *step.dropped.items(), ("kept", step.kept))
        ]
        write_table(folder / "funnel.parquet", conform(rows, FUNNEL), FUNNEL)


def read_funnel(folder: Path) -> tuple[FunnelStep, ...]:
    """The steps that the stage of the artifact in `folder` left; none where it left no `funnel.parquet`.

    Raises:
        ValueError: the numbers of a step do not add up.
    """
    if not (folder / "funnel.parquet").exists():
        return ()
    steps: dict[tuple[int, str], dict[str, int]] = {}
    for row in read_table(folder / "funnel.parquet").to_pylist():
        steps.setdefault((row["position"], row["step"]), {})[row["outcome"]] = row["rows"]
    return tuple(
        FunnelStep(name, counts.pop("in", 0), counts.pop("kept", 0), counts)
        for (_, name), counts in sorted(steps.items())
    )
