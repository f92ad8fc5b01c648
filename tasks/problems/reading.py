"""Reads problem files that a stranger may have written, within a bound of memory.

Parquet compresses without limit: a file of 4 MB can hold gigabytes of text. Two limits apply. The footer
states the uncompressed size, which is checked before anything is read. But a long text that is stored once,
in a dictionary, and repeated by every row costs the footer nothing, so the columns are read as dictionaries,
a few thousand rows at a time, and the size of the text they stand for is added up before it is written out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_ROWS = 2_000_000
MAX_BYTES = 2 * 2**30
"""Of all text together, uncompressed. 800,000 problems of 2 KB fit."""
MAX_CELL = 16 * 2**20
"""Bytes of one value: a problem with long test cases has a few megabytes in `verifier_args`."""
MAX_SHARDS = 10_000
_BATCH_ROWS = 4096


class UnusableProblems(ValueError):
    """A problem file that is refused; the message says what is wrong with it and what to do."""


def check_files(path: Path) -> None:
    """Refuse a file or folder of shards by its footers: rows, uncompressed size, columns and their types.

    Raises:
        UnusableProblems: one sentence.
    """
    rows = size = 0
    for shard in _shards(path):
        with _opened(shard) as file:
            _check_columns(file, shard)
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        rows += sum(group.num_rows for group in groups)
        size += sum(group.total_byte_size for group in groups)
        _check_size(rows, size)


def read_problems(path: Path) -> pa.Table:
    """Return the rows of a file or folder of shards, in the order of the shards' names.

    Raises:
        UnusableProblems: as `check_files`, or the text is larger than the footers say; one sentence.
    """
    import pyarrow as pa

    from tasks.tables import PROBLEMS

    check_files(path)
    batches: list[pa.RecordBatch] = []
    size = 0
    for shard in _shards(path):
        for batch in _batches(shard):
            size += _text_bytes(batch, shard)
            _check_size(0, size)
            batches.append(batch.cast(PROBLEMS))
    return pa.Table.from_batches(batches, schema=PROBLEMS)


def _shards(path: Path) -> list[Path]:
    """The files in the order of their names. A link or a device among them is not followed."""
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not shards or len(shards) > MAX_SHARDS:
        raise UnusableProblems(f"it holds {len(shards)} Parquet files: give 1 to {MAX_SHARDS:,}")
    for shard in shards:
        if not shard.is_file() or (shard != path and shard.is_symlink()):
            raise UnusableProblems(f"{shard.name} is no regular file: remove it")
    return shards


def _opened(shard: Path, as_dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pre_buffer would fetch whole row groups ahead of the batch that is asked for.
        return pq.ParquetFile(shard, read_dictionary=list(as_dictionaries), pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(shard, error) from None


def _batches(shard: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    from tasks.tables import PROBLEMS

    with _opened(shard, PROBLEMS.names) as file:
        try:
            # One column after another: a hostile page can then fill memory once and not ten times.
            for batch in file.iter_batches(_BATCH_ROWS, columns=PROBLEMS.names, use_threads=False):
                yield batch.select(PROBLEMS.names)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(shard, error) from None


def _check_columns(file: pq.ParquetFile, shard: Path) -> None:
    import pyarrow as pa

    from tasks.tables import PROBLEMS

    found = {field.name: field.type for field in file.schema_arrow}
    if absent := [name for name in PROBLEMS.names if name not in found]:
        raise UnusableProblems(f"{shard.name} has no column {', '.join(absent)}: add it")
    if unknown := [name for name in found if name not in PROBLEMS.names]:
        raise UnusableProblems(
            f"{shard.name} has the unknown column {', '.join(unknown)[:60]}: the columns of the schema are "
            f"{', '.join(PROBLEMS.names)}"
        )
    for name, kind in found.items():
        text = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(text) or pa.types.is_large_string(text)):
            raise UnusableProblems(f"{shard.name}: column {name} is {str(kind)[:60]}, it must be text")


def _check_size(rows: int, size: int) -> None:
    if rows > MAX_ROWS:
        raise UnusableProblems(f"it holds more than {MAX_ROWS:,} rows: split it or draw fewer problems")
    if size > MAX_BYTES:
        raise UnusableProblems(
            f"its text takes more than {MAX_BYTES / 2**30:g} GiB uncompressed: give fewer or shorter problems"
        )


def _text_bytes(batch: pa.RecordBatch, shard: Path) -> int:
    """Bytes of all text of a batch once the dictionaries are written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    total = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count:
            raise UnusableProblems(
                f"{shard.name}: column {name} has empty cells (null): give every row a value"
            )
        if pa.types.is_dictionary(column.type):
            sizes = pc.binary_length(column.dictionary).take(column.indices)
        else:
            sizes = pc.binary_length(column)
        longest = pc.max(sizes).as_py() or 0
        if longest > MAX_CELL:
            raise UnusableProblems(
                f"{shard.name}: column {name} has a value of {longest:,} bytes, "
                f"at most {MAX_CELL:,} are supported"
            )
        total += pc.sum(sizes).as_py() or 0
    return total


def _damaged(shard: Path, error: Exception) -> UnusableProblems:
    reason = str(error).splitlines()[0][:200]
    return UnusableProblems(f"{shard.name} is not a whole Parquet file ({reason}): write it again")
