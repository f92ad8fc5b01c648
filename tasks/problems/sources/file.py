"""Problems of your own files, whatever their columns are called.

    sources:
      - name: file
        path: data/exam.jsonl
        map: {question: [q], answer: [solution], fixed: {licence: CC-BY-4.0}}

Parquet, JSON Lines, JSON, CSV and TSV; a folder of them; a folder that `datasets` wrote with `save_to_disk`.
`map` may be the name of a ready map (`tasks/problems/maps`) for a copy of a known data set. The source
`parquet` reads files that have the `problems` schema already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks.problems.columns import ColumnMap, ready_map
from tasks.problems.mapped import DataFile, MappedSource
from tasks.problems.rows import find_files, read_rows
from tasks.settings import REPOSITORY


class MappedFile(MappedSource):
    name: Literal["file"] = "file"
    path: str
    """A file or folder, absolute or relative to the repository."""
    map: ColumnMap | str
    """The columns, or the name of a ready map."""

    def files(self) -> dict[str, str]:
        return {"path": self.path}

    def check(self) -> None:
        columns = self.column_map().columns()
        for file in self.data()[1]:
            next(iter(read_rows(file.path, columns)), None)

    def column_map(self) -> ColumnMap:
        return ready_map(self.map) if isinstance(self.map, str) else self.map

    def identity(self) -> str:
        return Path(self.path).stem

    def data(self) -> tuple[str, list[DataFile]]:
        root = REPOSITORY / Path(self.path).expanduser()
        if not root.exists():
            raise ValueError(
                f"problems.sources: path {self.path!r} does not exist: give a file or folder of rows"
            )
        found = find_files(root)
        names = [file.relative_to(root).as_posix() if root.is_dir() else file.name for file in found]
        return self.identity(), [DataFile(*pair) for pair in zip(found, names, strict=True)]
