"""Problems from a Parquet file, or a folder of shards, of the `problems` schema.

Code problems may come with submissions and generators in place of test cases (`tasks.problems.test_cases`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from tasks.problem import Problem, from_table
from tasks.problems.reading import (
    UnusableProblems,
    check_files,
    check_values,
    place_of_row,
    read_problems,
)  # fmt: skip
from tasks.problems.source import Drawn, Source
from tasks.settings import REPOSITORY


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
        return self._problems()

    def draw(self, seed: int) -> Drawn:
        """Raises ValueError where the file is missing, refused, or an id occurs twice."""
        from tasks.problems.test_cases import with_cases

        return Drawn(*with_cases(self._problems()))

    def _problems(self) -> list[Problem]:
        from tasks.problems.checking import objection

        try:
            problems = from_table(read_problems(self._found()))
        except UnusableProblems:
            raise
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}: fix it") from None
        for number, problem in enumerate(problems):
            if reason := objection(problem):
                place = place_of_row(self._found(), number)
                raise ValueError(f"{place}, problem {problem.id[:60]!r}: {reason}")
        twice = [i for i, n in Counter(p.id for p in problems).items() if n > 1]
        if twice:
            raise ValueError(f"{self.path}: problem id {twice[0]!r} occurs twice: make the ids unique")
        return problems

    def _found(self) -> Path:
        found = REPOSITORY / Path(self.path).expanduser()
        if not found.exists():
            raise ValueError(
                f"problems.sources: path {self.path!r} does not exist: "
                "give a Parquet file of the problems schema"
            )
        return found
