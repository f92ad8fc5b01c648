"""What became of the rows of a curation, step by step: in = kept + dropped, always.

A stage that filters rows collects its steps in a `Funnel` and leaves them as `funnel.parquet`. The flow shows
that table in the Prefect UI, and the report draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from artifacts.tables import conform, write_table
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
