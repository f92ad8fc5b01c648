"""Problems from a Parquet file, or a folder of shards, of the `problems` schema.

Code problems may come with submissions and generators in place of test cases (`tasks.problems.test_cases`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from tasks.problem import Problem, from_table
from tasks.problems.source import Drawn, Source
from tasks.settings import REPOSITORY


class ParquetFile(Source):
    name: Literal["parquet"] = "parquet"
    path: str
    """A file or folder of the `problems` schema, absolute or relative to the repository."""

    def files(self) -> dict[str, str]:
        return {"path": self.path}

    def check(self) -> None:
        from tasks.problems.reading import check_files

        check_files(self._found())

    def peek(self) -> list[Problem]:
        return self._problems()

    def draw(self, seed: int) -> Drawn:
        """Raises ValueError where the file is missing, refused, or an id occurs twice."""
        from tasks.problems.test_cases import with_cases

        return Drawn(*with_cases(self._problems()))

    def _problems(self) -> list[Problem]:
        from tasks.problems.reading import read_problems

        table = read_problems(self._found())
        try:
            problems = from_table(table)
        except (ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.path}: column verifier_args is not JSON ({reason}): fix it") from None
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
