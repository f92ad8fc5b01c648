"""Reads problem files that a stranger may have written, within a bound of memory.

Parquet compresses without limit: a file of 4 MB can hold gigabytes of text. Two limits apply. The footer
states the uncompressed size, which is checked before anything is read. But a long text that is stored once,
in a dictionary, and repeated by every row costs the footer nothing, so the columns are read as dictionaries,
a few thousand rows at a time, and the size of the text they stand for is added up before it is written out.

Columns are read by name. Those that the schema does not know become one JSON object a row, column `metadata`;
so does a column `level` that holds anything but whole numbers from 1 to 5.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.problem import LEVELS

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_ROWS = 2_000_000
MAX_BYTES = 2 * 2**30
"""Of all text together, uncompressed. 800,000 problems of 2 KB fit."""
MAX_CELL = 16 * 2**20
"""Bytes of one value: a problem with long test cases has a few megabytes in `verifier_args`."""
MAX_SHARDS = 10_000
BATCH_ROWS = 4096
"""Rows that are read at a time."""
_METADATA, _LEVEL = "metadata", "level"
_OPTIONAL = (_METADATA, _LEVEL)
_OTHER_FORMATS = {".jsonl": "JSON Lines", ".json": "JSON", ".csv": "CSV", ".tsv": "TSV"}


class UnusableProblems(ValueError):
    """A problem file that is refused; the message says what is wrong with it and what to do."""


def check_files(path: Path) -> None:
    """Refuse a file or folder of shards by its footers: rows, uncompressed size, columns and their types.

    Raises:
        UnusableProblems: one sentence.
    """
    rows = size = 0
    for shard in _shards(path):
        with opened(shard) as file:
            _check_columns(file, shard)
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        rows += sum(group.num_rows for group in groups)
        size += sum(group.total_byte_size for group in groups)
        # A run-length encoded number takes no room in the file.
        size += sum(8 * group.column(i).num_values for group in groups for i in range(group.num_columns))
        check_size(rows, size)


def check_values(path: Path, allowed: Mapping[str, Sequence[str]]) -> None:
    """Refuse a file by the values of a few short columns. Raises UnusableProblems."""
    import pyarrow.compute as pc

    from tasks.problems.checking import not_allowed

    for shard in _shards(path):
        row = 0
        for batch in limited_batches(shard, list(allowed)):
            for name, values in allowed.items():
                column = batch.column(name)
                for value in pc.unique(column).to_pylist():
                    if value not in values:
                        number = row + column.to_pylist().index(value) + 1
                        raise UnusableProblems(
                            f"{shard.name}, row {number}: {not_allowed(name, value, values)}"
                        )
            row += batch.num_rows


def place_of_row(path: Path, number: int) -> str:
    """Return the file and the row in it, from 1 on, of a row of `read_problems`."""
    for shard in _shards(path):
        with opened(shard) as file:
            rows = file.metadata.num_rows
        if number < rows:
            return f"{shard.name}, row {number + 1}"
        number -= rows
    raise IndexError(number)


def read_problems(path: Path) -> pa.Table:
    """Return the rows that `problem_batches` yields as one table."""
    import pyarrow as pa

    from tasks.tables import PROBLEMS

    return pa.Table.from_batches(problem_batches(path), schema=PROBLEMS)


def problem_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file or folder of shards, in the order of the shards' names.

    Raises:
        UnusableProblems: as `check_files`, or the text is larger than the footers say; one sentence.
    """
    import pyarrow as pa

    from tasks.tables import PROBLEMS

    check_files(path)
    size = 0
    for shard in _shards(path):
        with opened(shard) as file:
            names = file.schema_arrow.names
        for batch in limited_batches(shard, names):
            size += _text_bytes(batch, shard)
            check_size(0, size)
            levels = _levels(batch)
            columns = {
                name: batch.column(name).cast(pa.string()) for name in PROBLEMS.names if name not in _OPTIONAL
            }
            columns |= {_METADATA: pa.array(_metadata(batch, levels), pa.string()), _LEVEL: levels}
            yield pa.record_batch([columns[name] for name in PROBLEMS.names], schema=PROBLEMS)


def _levels(batch: pa.RecordBatch) -> pa.Array:
    """Return the level of each row where it is a whole number from 1 to 5, null elsewhere."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if _LEVEL not in batch.schema.names or not pa.types.is_integer(batch.schema.field(_LEVEL).type):
        return pa.nulls(batch.num_rows, pa.int8())
    given = batch.column(_LEVEL)
    known = pc.is_in(given, value_set=pa.array(LEVELS, given.type))
    return pc.if_else(known, given, None).cast(pa.int8())


def _metadata(batch: pa.RecordBatch, levels: pa.Array) -> list[str]:
    """Return a JSON object a row with the columns that the schema does not know; empty cells are left out."""
    import pyarrow as pa

    from tasks.tables import PROBLEMS

    extra = [name for name in batch.schema.names if name == _METADATA or name not in PROBLEMS.names]
    if _LEVEL in batch.schema.names and levels.null_count > batch.column(_LEVEL).null_count:
        extra.append(_LEVEL)
    if not extra:
        return ["{}"] * batch.num_rows
    if extra == [_METADATA] and pa.types.is_dictionary(batch.column(_METADATA).type):
        column = batch.column(_METADATA)
        each = [
            json.dumps(_given_metadata(value), ensure_ascii=False) for value in column.dictionary.to_pylist()
        ]
        return [each[i] if i is not None else "{}" for i in column.indices.to_pylist()]
    found = []
    for row in batch.select(extra).to_pylist():
        values = {name: value for name, value in row.items() if value is not None}
        values = _given_metadata(values.pop(_METADATA, None)) | values
        found.append(json.dumps(values, ensure_ascii=False, default=str))
    return found


def _given_metadata(value: object) -> dict[str, object]:
    """Return a column `metadata` of the file as an object, whether it is JSON or anything else."""
    try:
        decoded = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        decoded = value
    return decoded if isinstance(decoded, dict) else {} if decoded is None else {_METADATA: decoded}


def _shards(path: Path) -> list[Path]:
    """The files in the order of their names. A link or a device among them is not followed."""
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not shards or len(shards) > MAX_SHARDS:
        raise UnusableProblems(f"it holds {len(shards)} Parquet files: give 1 to {MAX_SHARDS:,}")
    for shard in shards:
        if not shard.is_file() or (shard != path and shard.is_symlink()):
            raise UnusableProblems(f"{shard.name} is no regular file: remove it")
    return shards


def opened(shard: Path, as_dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """Return the file, its footer read. Raises UnusableProblems where it is not whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pre_buffer would fetch whole row groups ahead of the batch that is asked for.
        return pq.ParquetFile(shard, read_dictionary=list(as_dictionaries), pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise damaged(shard, error) from None


def limited_batches(shard: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns, text as dictionaries, so that `text_sizes` can bound them before they are written
    out."""
    import pyarrow as pa

    with opened(shard) as file:
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    with opened(shard, texts) as file:
        try:
            # One column after another: a hostile page can then fill memory once and not ten times.
            for batch in file.iter_batches(BATCH_ROWS, columns=list(names), use_threads=False):
                yield batch.select(names)
        except (pa.ArrowException, OSError) as error:
            raise damaged(shard, error) from None


def _check_columns(file: pq.ParquetFile, shard: Path) -> None:
    import pyarrow as pa

    from tasks.tables import PROBLEMS

    found = {field.name: field.type for field in file.schema_arrow}
    required = [name for name in PROBLEMS.names if name not in _OPTIONAL]
    if absent := [name for name in required if name not in found]:
        raise UnusableProblems(
            f"{shard.name} has no column {', '.join(absent)}: add it (it has {', '.join(found)[:200]})"
        )
    if len(found) < len(file.schema_arrow):
        raise UnusableProblems(f"{shard.name} has two columns of one name: rename one")
    for name in required:
        kind = found[name]
        text = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(text) or pa.types.is_large_string(text)) and not (
            name == "answer" and pa.types.is_integer(text)
        ):
            raise UnusableProblems(f"{shard.name}: column {name} is {str(kind)[:60]}, it must be text")


def check_size(rows: int, size: int) -> None:
    """Refuse more rows or bytes of text than are supported. Raises UnusableProblems."""
    if rows > MAX_ROWS:
        raise UnusableProblems(f"it holds more than {MAX_ROWS:,} rows: split it or draw fewer problems")
    if size > MAX_BYTES:
        raise UnusableProblems(
            f"its text takes more than {MAX_BYTES / 2**30:g} GiB uncompressed: give fewer or shorter problems"
        )


def _text_bytes(batch: pa.RecordBatch, shard: Path) -> int:
    """Bytes of all text of a batch once the dictionaries are written out."""
    from tasks.tables import PROBLEMS

    total = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count and name in PROBLEMS.names and name not in _OPTIONAL:
            raise UnusableProblems(
                f"{shard.name}: column {name} has empty cells (null): give every row a value"
            )
        size, longest = text_sizes(column)
        if longest > MAX_CELL:
            raise UnusableProblems(
                f"{shard.name}: column {name} has a value of {longest:,} bytes, "
                f"at most {MAX_CELL:,} are supported"
            )
        total += size
    return total


def text_sizes(column: pa.Array) -> tuple[int, int]:
    """Return the bytes of all values of a column and of the longest text in it, at any depth."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_struct(kind):
        inner = [text_sizes(part) for part in column.flatten()]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = [text_sizes(column.flatten())]
    elif pa.types.is_map(kind):
        inner = [text_sizes(column.keys), text_sizes(column.items)]
    elif pa.types.is_dictionary(kind):
        sizes = pc.binary_length(column.dictionary).take(column.indices)
        inner = [(pc.sum(sizes).as_py() or 0, pc.max(sizes).as_py() or 0)]
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        inner = [(column.nbytes, pc.max(pc.binary_length(column)).as_py() or 0)]
    else:
        inner = [(column.nbytes, 0)]
    return sum(size for size, _ in inner), max((longest for _, longest in inner), default=0)


def damaged(shard: Path, error: Exception, kind: str = "Parquet file") -> UnusableProblems:
    """Return the refusal of a file that its library could not read."""
    if shard.is_file() and (other := _OTHER_FORMATS.get(shard.suffix.lower())):
        return UnusableProblems(
            f"{shard.name} is a {other} file, not Parquet: read it with source "
            "`file` and a map of its columns"
        )
    reason = str(error).splitlines()[0][:200]
    return UnusableProblems(f"{shard.name} is not a whole {kind} ({reason}): write it again")
