"""Parquet tables of given schemas: checked when written, zstd, atomic.

Whoever publishes says which tables there are, as a mapping of names to schemas. A file belongs to the one
that its stem names (`samples.parquet`) or, for shards, its folder (`samples/00001.parquet`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.errors import TableError
from artifacts.files import replacing

Rows: TypeAlias = pa.Table | Iterable[Mapping[str, Any]]
Tables: TypeAlias = Mapping[str, pa.Schema]
"""The tables that artifacts of a store may hold, by name."""
ROWS_IN_GROUP = 8_192
"""Rows in a row group, the smallest part of a file that can be read alone; pyarrow's default is a million,
which for completions is gigabytes."""
_ARROW_ERRORS = (pa.ArrowException, OverflowError, UnicodeEncodeError)


def schema_name(path: str, tables: Tables) -> str:
    """The name in `tables` that `path` (relative to the artifact) belongs to.

    Raises:
        TableError: neither the stem nor the folder is such a name.
    """
    parts = PurePosixPath(path)
    for name in (parts.stem, parts.parent.name):
        if name in tables:
            return name
    raise TableError(f"{path} names no table schema: call it NAME.parquet or NAME/SHARD.parquet, "
                     f"NAME one of {', '.join(tables)}")  # fmt: skip


def conform(rows: Rows, schema: pa.Schema) -> pa.Table:
    """`rows` with exactly the columns, types and order of `schema`.

    Nullable columns that are absent become null; numbers are cast where nothing is lost.

    Raises:
        TableError: an unknown or absent column, a null or a value that does not fit, with column and row.
    """
    columns = _columns(rows, schema)
    return pa.Table.from_arrays([_cast(columns[field.name], field) for field in schema], schema=schema)


def write_table(path: Path | str, rows: Rows, schema: pa.Schema) -> Path:
    """Write `rows` as a zstd Parquet file of `schema`, atomically; returns the path.

    Raises:
        TableError: as `conform`; nothing is written then.
    """
    path = Path(path)
    try:
        table = conform(rows, schema)
    except TableError as error:
        raise TableError(f"{path.name}: {error}") from error
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROWS_IN_GROUP)
    return path


def read_table(path: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or a folder of shards in the order of their names; `NAME` also finds `NAME.parquet`.

    Raises:
        TableError: nothing is there, or a file is not whole.
    """
    return pa.concat_tables([_read(shard, columns) for shard in table_files(Path(path))])


def read_batches(path: Path | str, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The same table as `read_table` returns, at most `rows` rows at a time. Raises as it."""
    for shard in table_files(Path(path)):
        try:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(rows, columns=columns):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(str(shard), error) from error


def table_files(path: Path) -> list[Path]:
    """The Parquet files that `read_table` reads for a path, in order. Raises as it."""
    if not path.exists() and path.with_name(path.name + ".parquet").exists():
        path = path.with_name(path.name + ".parquet")
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not shards or not all(shard.is_file() for shard in shards):
        raise TableError(f"{path} holds no Parquet file: check the path")
    return shards


def inspect(path: Path, where: str, tables: Tables) -> tuple[str, int]:
    """Check a finished Parquet file called `where` in its draft; returns the table's name and its rows.

    Raises:
        TableError: unknown name, damaged file, other columns than the schema's, or a null where none may be.
    """
    name = schema_name(where, tables)
    schema = tables[name]
    try:
        with pq.ParquetFile(path) as file:
            if _shape(file.schema_arrow) != _shape(schema):
                raise TableError(
                    f"{where}: {_difference(file.schema_arrow, schema)}; write it with write_table"
                )
            _refuse_nulls(file, schema, where)
            return name, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(where, error) from error


def _columns(rows: Rows, schema: pa.Schema) -> dict[str, pa.ChunkedArray | list[Any]]:
    """Column name -> values, complete; which columns there are is checked here."""
    if isinstance(rows, pa.Table):
        given: dict[str, Any] = {column: rows[column] for column in rows.column_names}
        count = rows.num_rows
    else:
        listed: list[Mapping[str, Any]] = list(rows)
        count = len(listed)
        _same_columns(listed)
        given = {
            column: [row[column] for row in listed] for column in (listed[0] if listed else schema.names)
        }
    unknown = [column for column in given if column not in schema.names]
    absent = [field.name for field in schema if field.name not in given and not field.nullable]
    if unknown or (absent and count):
        raise TableError(_column_fault(unknown, absent, schema))
    return {field.name: given.get(field.name, [None] * count) for field in schema}


def _same_columns(rows: Sequence[Mapping[str, Any]]) -> None:
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            odd = ", ".join(sorted(row.keys() ^ rows[0].keys()))
            raise TableError(f"row {number} has other columns than row 0 ({odd}): give every row the same")


def _column_fault(unknown: list[str], absent: list[str], schema: pa.Schema) -> str:
    faults = [f"unknown column {', '.join(unknown)}"] if unknown else []
    faults += [f"column {', '.join(absent)} is missing"] if absent else []
    return f"{' and '.join(faults)}: the columns are {', '.join(schema.names)}"


def _cast(values: Any, field: pa.Field) -> pa.ChunkedArray:
    try:
        array = _converted(values, field.type)
    except _ARROW_ERRORS as error:
        row = _first_misfit(values, field.type)
        reason = str(error).splitlines()[0]
        raise TableError(f"column {field.name}, row {row}: {reason}; it must be {field.type}") from error
    if array.null_count and not field.nullable:
        row = array.is_null().index(True).as_py()
        raise TableError(f"column {field.name}, row {row} is null: every row needs a {field.type}")
    return array


def _converted(values: Any, kind: pa.DataType) -> pa.ChunkedArray:
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    chunks = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    if not _castable(chunks.type, kind):
        raise pa.ArrowTypeError(f"{chunks.type} does not become {kind}")
    return chunks.cast(kind, safe=True)


def _castable(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Numbers to numbers, text to text, null to anything: a cast never reads text as a number."""
    if pa.types.is_dictionary(given):
        given = given.value_type
    number = (pa.types.is_integer, pa.types.is_floating)
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return (
        given == wanted
        or pa.types.is_null(given)
        or any(all(any(is_(kind) for is_ in family) for kind in (given, wanted)) for family in (number, text))
    )


def _first_misfit(values: Any, kind: pa.DataType) -> int:
    """The first row that alone does not fit (0 where only the mixture does not)."""
    items = values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else values
    for number, item in enumerate(items):
        try:
            _converted([item], kind)
        except _ARROW_ERRORS:
            return number
    return 0


def _read(path: Path, columns: Sequence[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(str(path), error) from error


def _unreadable(where: str, error: Exception) -> TableError:
    reason = str(error).splitlines()[0]
    return TableError(f"{where} is not a whole Parquet file ({reason}): write it again with write_table")


def _shape(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]


def _difference(found: pa.Schema, wanted: pa.Schema) -> str:
    unknown = [name for name in found.names if name not in wanted.names]
    absent = [name for name in wanted.names if name not in found.names]
    if unknown or absent:
        return _column_fault(unknown, absent, wanted)
    for field in wanted:
        if found.field(field.name).type != field.type:
            return f"column {field.name} is {found.field(field.name).type}, it must be {field.type}"
    return f"the columns stand in another order than {', '.join(wanted.names)}"


def _refuse_nulls(file: pq.ParquetFile, schema: pa.Schema, where: str) -> None:
    for field in schema:
        if field.nullable or not file.schema_arrow.field(field.name).nullable:
            continue
        column = file.read(columns=[field.name]).column(0)
        if column.null_count:
            row = column.is_null().index(True).as_py()
            raise TableError(f"{where}: column {field.name}, row {row} is null: write it with write_table")
