"""Rows on their way through the stage: on disk, read part by part, so that memory does not grow with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from artifacts.tables import ROWS_IN_GROUP

_PART = 8_192
"""Rows of a part."""


class Spool:
    """An Arrow file that is written once, from beginning to end, and then read as often as needed."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self.rows = path, 0
        self._file = pa.OSFile(str(path), "wb")
        self._writer: pa.RecordBatchFileWriter | None = pa.ipc.new_file(self._file, schema)

    def append(self, table: pa.Table) -> None:
        if table.num_rows and self._writer:
            self._writer.write_table(table.combine_chunks(), max_chunksize=_PART)
            self.rows += table.num_rows

    def close(self) -> None:
        """No more is written."""
        if self._writer:
            self._writer.close()
            self._file.close()
            self._writer = None

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
        """Yield (number of the first row, rows), in order."""
        self.close()
        first = 0
        # Not mapped into memory: mapped pages would count as memory of the process.
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                part = pa.Table.from_batches([reader.get_batch(number)])
                yield first, part if columns is None else part.select(list(columns))
                first += part.num_rows

    def chosen(self, wanted: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """Yield (row numbers, rows) of those that `wanted`, ascending numbers, names; parts without one are
        skipped."""
        for first, part in self.parts():
            rows = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, first + part.num_rows)]
            if len(rows):
                yield rows, part.take(pa.array(rows - first))


def write_stream(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write tables as one Parquet file with row groups of one size, whatever their sizes are; returns the
    rows."""
    waiting: list[pa.Table] = []
    count = total = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            waiting.append(table)
            count += table.num_rows
            while count >= ROWS_IN_GROUP:
                joined = pa.concat_tables(waiting)
                writer.write_table(joined.slice(0, ROWS_IN_GROUP))
                waiting, count, total = (
                    [joined.slice(ROWS_IN_GROUP)],
                    count - ROWS_IN_GROUP,
                    total + ROWS_IN_GROUP,
                )
        if count:
            writer.write_table(pa.concat_tables(waiting))
    return total + count
