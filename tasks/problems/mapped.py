"""What sources of files with columns of their own share: which rows are drawn, and how they become
problems."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from tasks.problem import Problem, Split, to_table
from tasks.problems.columns import ColumnMap, RowReader, RowRefused
from tasks.problems.rows import count_rows, read_rows, split_of
from tasks.problems.source import Batch, Drawn, Source
from tasks.settings import Count, Positive


class DataFile(NamedTuple):
    """A file of a data set."""

    path: Path
    name: str
    """Its path inside the data set, by which the map knows its split."""


class MappedSource(Source):
    """A source whose rows become problems by a `ColumnMap`."""

    count: Positive | None = None
    """Training problems drawn by the seed; all rows by default. Fewer stay where rows are rejected."""
    held_out: Count | None = None
    """Held-out problems drawn by the seed: from the set's own test files, or from the training rows where it
    has none. By default all rows of its test files."""
    until: datetime.date | None = None
    """Questions published later are rejected, where the set has a date. The paper trains on contests before
    2023."""
    since: datetime.date | None = None
    """Questions published earlier are rejected, where the set has a date."""
    label: Annotated[str, Field(pattern=r"^[\w.-]{0,60}$")] = ""
    """Beginning of the problems' ids, if two sources read the same set."""

    def column_map(self) -> ColumnMap:
        """Return the map. Raises ValueError where there is none of that name."""
        raise NotImplementedError

    def data(self) -> tuple[str, list[DataFile]]:
        """Return the value of column `source` and the files, which exist from then on.

        Raises:
            ValueError: they cannot be had; one sentence.
        """
        raise NotImplementedError

    def identity(self) -> str:
        """Return the beginning of the problems' ids where `label` is not set."""
        return self.name

    def draw(self, seed: int) -> Drawn:
        from tasks.problem import from_table

        parts = list(self.batches(seed))
        return Drawn(
            [p for part in parts for p in from_table(part.table)],
            [r for part in parts for r in part.rejected],
        )

    def batches(self, seed: int) -> Iterator[Batch]:
        columns = self.column_map()
        source, files = self.data()
        splits = [(file, split) for file in files if (split := split_of(file.name, dict(columns.splits)))]
        if not splits:
            raise ValueError(
                f"{source}: no file fits the patterns of `splits`: fix the map (there are "
                f"{', '.join(f.name for f in files)[:200]})"
            )
        wanted = _Selection(self, [(split, count_rows(file.path)) for file, split in splits], seed)
        reader = RowReader(columns, self.label or self.identity(), source, seed, self.until, self.since)
        first = 0
        for file, _ in splits:
            for rows in read_rows(file.path, columns.columns()):
                chosen = [(number, split) for number, split in wanted.among(first, len(rows))]
                yield _converted(reader, [(number, split, rows[number - first]) for number, split in chosen])
                first += len(rows)


class _Selection:
    """Which rows are drawn, and into which split. A pure function of sizes, counts and seed."""

    def __init__(self, source: MappedSource, sizes: Sequence[tuple[Split, int]], seed: int) -> None:
        import numpy as np

        total = sum(size for _, size in sizes)
        own = np.concatenate(
            [np.full(size, split == "held_out") for split, size in sizes] or [np.zeros(0, bool)]
        )
        self._split = np.zeros(total, np.int8)  # 0: not drawn, 1: train, 2: held-out
        order = np.random.default_rng([seed, 0x5EED]).permutation(total)
        held, rest = order[own[order]], order[~own[order]]
        if source.held_out is not None:
            taken = source.held_out if held.size else min(source.held_out, rest.size)
            held, rest = (held[:taken], rest) if held.size else (rest[:taken], rest[taken:])
        self._split[held] = 2
        self._split[rest[: source.count]] = 1

    def among(self, first: int, count: int) -> list[tuple[int, Split]]:
        part = self._split[first : first + count]
        return [(first + int(at), "train" if part[at] == 1 else "held_out") for at in part.nonzero()[0]]


def _converted(reader: RowReader, rows: Sequence[tuple[int, Split, dict[str, object]]]) -> Batch:
    from tasks.problems.checking import objection

    problems: list[Problem] = []
    rejected: list[dict[str, str]] = []
    for number, split, row in rows:
        try:
            problem = reader.problem(row, number, split)
            if reason := objection(problem):
                raise RowRefused("unusable-row", reason, problem.prompt)
            problems.append(problem)
        except RowRefused as found:
            rejected.append(
                {
                    "problem_id": f"{reader.label}-{number}",
                    "text": found.text,
                    "reason": found.reason,
                    "detail": found.detail,
                }
            )
    return Batch(to_table(problems), rejected)
