"""Reads rows of files that have columns of their own: Parquet, JSON Lines, JSON, CSV, TSV, `datasets`
folders.

The files may come from a stranger, so the limits of `reading.py` hold here too: the number of rows and of
files, the size of a value and of all text that is read, and no link inside a folder is followed. Only the
columns that a map names are read from Parquet and Arrow files. Nothing is unpickled and no code of a data set
is run.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tasks.problem import Split
from tasks.problems.reading import (
    BATCH_ROWS,
    MAX_CELL,
    MAX_ROWS,
    MAX_SHARDS,
    UnusableProblems,
    check_size,
    damaged,
    limited_batches,
    opened,
    text_sizes,
)  # fmt: skip

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
MAX_LINE = 4 * MAX_CELL
"""Bytes of one line of JSON or CSV, which holds several values."""
MAX_DOCUMENT = 2**28
"""Bytes of a `.json` file, which can only be read as a whole."""
_FORMATS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".arrow")
_ABOUT = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")
"""What the library `datasets` writes beside the rows."""
_HELD_OUT = ("test", "valid", "dev", "eval", "held")


def find_files(path: Path) -> list[Path]:
    """Return the data files of a path, sorted by name: the file itself, or those in and below a folder.

    Raises:
        UnusableProblems: there is none, there are too many, or one is a link or a device.
    """
    if path.is_file():
        return [path]
    inside = sorted(p for p in islice(path.rglob("*"), 10 * MAX_SHARDS) if p.suffix.lower() in _FORMATS)
    found = [
        p
        for p in inside
        if p.name not in _ABOUT and not any(part[0] == "." for part in p.relative_to(path).parts)
    ]
    if not found or len(found) > MAX_SHARDS:
        raise UnusableProblems(
            f"{path.name} holds {len(found)} data files: give 1 to {MAX_SHARDS:,} of {', '.join(_FORMATS)}"
        )
    for file in found:
        if not file.is_file() or _through_link(file, path):
            raise UnusableProblems(f"{file.name} is no regular file: remove it")
    return found


def split_of(name: str, patterns: dict[Split, tuple[str, ...]]) -> Split | None:
    """Return the split of a file by its path in the data set; None for one that no pattern names.

    Without patterns a file is held out if a folder or the file is called `test...`, `validation...`,
    `dev...`.
    """
    if patterns:
        return next(
            (split for split, globs in patterns.items() if any(fnmatch(name, g) for g in globs)), None
        )
    return "held_out" if any(part.startswith(_HELD_OUT) for part in name.lower().split("/")) else "train"


def count_rows(file: Path) -> int:
    """Return the number of rows of a file. Raises UnusableProblems where it cannot be read."""
    if file.suffix.lower() == ".parquet":
        with opened(file) as parquet:
            count = int(parquet.metadata.num_rows)
    else:
        count = sum(len(rows) for rows in read_rows(file, None))
    check_size(count, 0)
    return count


def read_rows(file: Path, columns: Sequence[str] | None) -> Iterator[list[Row]]:
    """Yield the rows of a file in order, some thousand at a time. `columns` None: all there are.

    Raises:
        UnusableProblems: damaged, a limit is exceeded, or a column is missing; one sentence.
    """
    kind = file.suffix.lower()
    if kind in (".parquet", ".arrow"):
        for batch in _parquet(file, columns) if kind == ".parquet" else _arrow(file, columns):
            yield batch.to_pylist()
        return
    rows = (
        _json_document(file)
        if kind == ".json"
        else _delimited(file)
        if kind in (".csv", ".tsv")
        else _json_lines(file)
    )
    seen = 0
    while part := list(islice(rows, BATCH_ROWS)):
        if not seen and columns:
            _require(file, columns, set().union(*part[:100]))
        seen += len(part)
        check_size(seen, 0)
        yield part


def _parquet(file: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    with opened(file) as parquet:
        names = parquet.schema_arrow.names
        groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
    check_size(sum(group.num_rows for group in groups), 0)
    if columns is not None:
        _require(file, columns, names)
    size = 0
    for batch in limited_batches(file, list(columns or names)):
        size += _size(batch, file)
        check_size(0, size)
        yield batch


def _arrow(file: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    """Read what `Dataset.save_to_disk` wrote: a stream of record batches, not compressed."""
    import pyarrow as pa

    size = 0
    try:
        with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
            if columns is not None:
                _require(file, columns, stream.schema.names)
            for batch in stream:
                chosen = batch.select(list(columns)) if columns is not None else batch
                size += _size(chosen, file)
                check_size(0, size)
                yield from (chosen.slice(at, BATCH_ROWS) for at in range(0, chosen.num_rows, BATCH_ROWS))
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, error, "Arrow stream") from None


def _size(batch: pa.RecordBatch, file: Path) -> int:
    total = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        size, longest = text_sizes(column)
        if longest > MAX_CELL:
            raise UnusableProblems(
                f"{file.name}: column {name} has a value of {longest:,} bytes, at most {MAX_CELL:,} are "
                "supported"
            )
        total += size
    return total


def _json_lines(file: Path) -> Iterator[Row]:
    with file.open("rb") as lines:
        for number, line in enumerate(_lines(lines, file), 1):
            if line.strip():
                yield _object(line, f"{file.name}, line {number}")


def _json_document(file: Path) -> Iterator[Row]:
    """Read a list of objects; a file of one object a line is read as JSON Lines, whatever it is called."""
    with file.open("rb") as head:
        begins = head.read(256).lstrip()[:1]
    if begins != b"[":
        yield from _json_lines(file)
        return
    if file.stat().st_size > MAX_DOCUMENT:
        raise UnusableProblems(
            f"{file.name} is a JSON list of more than {MAX_DOCUMENT / 2**20:g} MiB: write JSON Lines"
        )
    try:
        rows = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnusableProblems(f"{file.name} is not JSON ({str(error)[:80]}): write it again") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UnusableProblems(f"{file.name}, item {number} is no object: give a list of objects")
        yield row


def _object(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnusableProblems(f"{where} is not JSON ({str(error)[:80]}): fix the line") from None
    if not isinstance(row, dict):
        raise UnusableProblems(f"{where} is no JSON object: give one object a line")
    return row


def _delimited(file: Path) -> Iterator[Row]:
    csv.field_size_limit(MAX_CELL)
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    with file.open("rb") as raw:
        try:
            lines = (
                line.decode("utf-8-sig" if not number else "utf-8")
                for number, line in enumerate(_lines(raw, file))
            )
            for number, row in enumerate(csv.DictReader(lines, delimiter=delimiter), 2):
                if None in row:
                    raise UnusableProblems(
                        f"{file.name}, row {number} has more cells than there are column names: quote its "
                        "text"
                    )
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UnusableProblems(
                f"{file.name} is not readable CSV in UTF-8 ({str(error)[:80]}): write it again"
            ) from None


def _lines(raw: IO[bytes], file: Path) -> Iterator[bytes]:
    while line := raw.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise UnusableProblems(f"{file.name} has a line of more than {MAX_LINE:,} bytes: shorten it")
        yield line


def _require(file: Path, columns: Sequence[str], there: Sequence[str] | set[str]) -> None:
    if absent := [name for name in columns if name not in there]:
        raise UnusableProblems(
            f"{file.name} has no column {', '.join(absent)}: fix the map (it has "
            f"{', '.join(sorted(map(str, there)))[:200]})"
        )


def _through_link(file: Path, root: Path) -> bool:
    return any(
        part.is_symlink() for part in (file, *file.parents) if part != root and part.is_relative_to(root)
    )


__all__ = ["MAX_ROWS", "Row", "count_rows", "find_files", "read_rows", "split_of"]
