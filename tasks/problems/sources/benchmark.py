"""Questions of a named benchmark (`tasks/benchmarks`), all held out: from the hub, or a local copy by `path`.

A preset needs no such source: `evaluation.benchmarks` adds one for each benchmark, so that training problems
that are near copies of its questions are dropped. Column `source` is the benchmark's name; the data set and
its commit are in column `metadata`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tasks.problem import Split, from_table, to_table
from tasks.problems.columns import Columns, ready_map
from tasks.problems.rows import find_files, split_of
from tasks.problems.source import Batch, Drawn, Source
from tasks.problems.sources.file import MappedFile
from tasks.problems.sources.hub import HubDataset
from tasks.settings import REPOSITORY, Positive

if TYPE_CHECKING:
    from tasks.problems.mapped import MappedSource


def _ready(name: str) -> str:
    ready_map(name)
    return name


class BenchmarkQuestions(Source):
    name: Literal["benchmark"] = "benchmark"
    benchmark: Annotated[str, Field(pattern=r"^[\w.-]{1,40}$")]
    """What the benchmark is called, which becomes the `source` of its problems."""
    map: Annotated[str, AfterValidator(_ready)]
    """Ready map of its columns."""
    path: str = ""
    """A local copy: a file of its rows, or a folder laid out as the data set is; the hub by default."""
    revision: str = "main"
    count: Positive | None = None
    """Questions, drawn by the seed; all of them by default."""
    since: datetime.date | None = None
    until: datetime.date | None = None

    def files(self) -> dict[str, str]:
        return {"path": self.path} if self.path else {}

    def check(self) -> None:
        if self.path:
            self._data_set().check()

    def batches(self, seed: int) -> Iterator[Batch]:
        for table, rejected in self._data_set().batches(seed):
            questions = [
                replace(p, source=self.benchmark, metadata=p.metadata | {"data_set": p.source})
                for p in from_table(table)
            ]
            yield Batch(to_table(questions), rejected)

    def draw(self, seed: int) -> Drawn:
        parts = list(self.batches(seed))
        return Drawn(
            [p for part in parts for p in from_table(part.table)],
            [row for part in parts for row in part.rejected],
        )

    def _data_set(self) -> MappedSource:
        columns = ready_map(self.map)
        tests: dict[Split, Columns] = {"held_out": columns.splits["held_out"]}
        wanted: dict[str, Any] = {
            "count": self.count, "held_out": self.count, "since": self.since, "until": self.until,
            # Another beginning of the ids than that of a source of training problems with the same map.
            "label": f"benchmark-{self.benchmark}",
        }  # fmt: skip
        if not self.path:
            mapped = columns.model_copy(update={"splits": tests})  # training files are not downloaded
            return HubDataset(name=self.map, map=mapped, revision=self.revision, **wanted)
        root = REPOSITORY / self.path
        laid_out = root.is_dir() and any(
            split_of(file.relative_to(root).as_posix(), tests) for file in find_files(root)
        )
        # Files with other names than the data set's hold the benchmark's questions and nothing else.
        splits: dict[Split, Columns] = tests if laid_out else {"held_out": ("*",)}
        mapped = columns.model_copy(update={"splits": splits})
        return MappedFile(path=self.path, map=mapped, **wanted)
