"""Problems from a Parquet file, or a folder of shards, of the `problems` schema.

Code problems may come with submissions and generators in place of test cases (`tasks.problems.test_cases`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.problem import Problem, from_table, to_table
from tasks.problems.reading import (
    UnusableProblems,
    check_files,
    check_values,
    place_of_row,
    problem_batches,
)  # fmt: skip
from tasks.problems.source import Batch, Drawn, Source
from tasks.settings import REPOSITORY

if TYPE_CHECKING:
    import pyarrow as pa


class ParquetFile(Source):
    name: Literal["parquet"] = "parquet"
    path: str
    """A file or folder of the `problems` schema, absolute or relative to the repository."""

    def files(self) -> dict[str, str]:
        return {"path": self.path}

    def check(self) -> None:
        from tasks.problems.checking import allowed_values

        check_files(self._found())
        check_values(self._found(), allowed_values())

    def peek(self) -> list[Problem]:
        return [problem for table in self._tables() for problem in from_table(table)]

    def draw(self, seed: int) -> Drawn:
        """Raises ValueError where the file is missing, refused, or an id occurs twice."""
        parts = list(self.batches(seed))
        problems = [problem for part in parts for problem in from_table(part.table)]
        twice = [i for i, n in Counter(p.id for p in problems).items() if n > 1]
        if twice:
            raise ValueError(f"{self.path}: problem id {twice[0]!r} occurs twice: make the ids unique")
        return Drawn(problems, [row for part in parts for row in part.rejected])

    def batches(self, seed: int) -> Iterator[Batch]:
        from tasks.problems.test_cases import wants_cases, with_cases

        for table in self._tables():
            if wants_cases(table):
                problems, rejected = with_cases(from_table(table))
                yield Batch(to_table(problems), rejected)
            else:
                yield Batch(table, [])

    def _tables(self) -> Iterator[pa.Table]:
        """Yield the rows, each of which a verifier can judge."""
        import pyarrow as pa

        from tasks.problems.checking import objections

        first = 0
        for batch in problem_batches(self._found()):
            table = pa.Table.from_batches([batch])
            try:
                for place, identity, reason in objections(table):
                    where = place_of_row(self._found(), first + place)
                    raise UnusableProblems(f"{where}, problem {identity[:60]!r}: {reason}")
            except UnusableProblems:
                raise
            except ValueError as error:
                raise ValueError(f"{self.path}: {error}: fix it") from None
            first += table.num_rows
            yield table

    def _found(self) -> Path:
        found = REPOSITORY / Path(self.path).expanduser()
        if not found.exists():
            raise ValueError(
                f"problems.sources: path {self.path!r} does not exist: "
                "give a Parquet file of the problems schema"
            )
        return found
