"""Problems from a Parquet file, or a folder of shards, of the `problems` schema.

Code problems may come with submissions and generators in place of test cases (`tasks.problems.test_cases`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from tasks.problem import Problem, from_table
from tasks.problems.source import Drawn, Source


class ParquetFile(Source):
    name: Literal["parquet"] = "parquet"
    path: str
    """A file or folder of the `problems` schema, absolute or relative to the repository."""

    def files(self) -> dict[str, str]:
        return {"path": self.path}

    def draw(self, seed: int) -> Drawn:
        """Raises ValueError where the file is missing or an id occurs twice."""
        from tasks.problems.test_cases import with_cases

        return Drawn(*with_cases(read_problems(self.path)))


def read_problems(path: str) -> list[Problem]:
    """The problems of a file or folder of shards; ids must be unique."""
    from artifacts.tables import read_table
    from tasks.settings import REPOSITORY

    found = REPOSITORY / Path(path).expanduser()
    if not found.exists():
        raise ValueError(
            f"problems.sources: path {path!r} does not exist: give a Parquet file of the problems schema"
        )
    problems = from_table(read_table(found))
    twice = [i for i, n in Counter(p.id for p in problems).items() if n > 1]
    if twice:
        raise ValueError(f"{path}: problem id {twice[0]!r} occurs twice: make the ids unique")
    return problems
