"""Curation shard by shard: what is in memory is one shard, whatever the number of samples.

A finished shard is a folder in the job's state and is not made again after a kill. `Shards.join` makes the
artifact's tables from them, row group by row group.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artifacts.files import replacing
from artifacts.tables import ROWS_IN_GROUP, read_table, write_table
from tasks.curation.candidates import Sieve, rejected_table, sft_table
from tasks.funnel import Funnel
from tasks.job import Job, StopRequested
from tasks.supervise.records import read_json, write_json
from tasks.tables import REJECTED, SAMPLES, SFT

_TOKENS = "completion_tokens"
_KEPT = SFT.append(pa.field(_TOKENS, pa.int32(), nullable=False))
"""The rows of `sft` in a shard, with what the statistics need."""


@dataclass
class CuratedShard:
    """What became of one shard of judged samples."""

    samples: pa.Table
    sieve: Sieve
    counts: dict[str, int] = field(default_factory=dict)
    """Beside the funnel's, for the summary; kept with the shard, so a restart does not lose them."""


class Shards:
    """The finished shards of a stage."""

    def __init__(self, job: Job, source: str, template: str) -> None:
        """`source` is the digest of the sampled checkpoint."""
        self._job, self._source, self._template = job, source, template
        self._root = job.state / "curated"
        self._folders: list[Path] = []
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.samples = self.kept = 0

    def make(
        self, chunks: Iterable[pa.Table], total: int, curate: Callable[[pa.Table], CuratedShard]
    ) -> None:
        """Curate every chunk that was not curated before a kill.

        Raises:
            StopRequested: the job was asked to stop; finished shards are kept.
        """
        for number, chunk in enumerate(chunks):
            folder = self._root / f"{number:05d}"
            if not folder.exists():
                if self._job.should_stop():
                    raise StopRequested(f"{number} shards are curated")
                self._write(folder, curate(chunk))
            self._folders.append(folder)
            self._add(folder)
            self._job.progress(self.samples, total, "judge and filter")

    def funnel(self) -> Funnel:
        """The steps of all shards together."""
        steps: dict[str, Counter[str]] = {}
        for folder in self._folders:
            for name, kept, dropped in self._record(folder)["steps"]:
                steps.setdefault(name, Counter()).update({"": kept, **dropped})
        funnel = Funnel()
        for name, counted in steps.items():
            funnel.add(name, counted.pop(""), counted)
        return funnel

    def counts_of(self, role: str) -> dict[str, int]:
        """The counts whose names begin with `ROLE_`, without it: what a language model was asked."""
        start = f"{role}_"
        return {n.removeprefix(start): count for n, count in self.counts.items() if n.startswith(start)}

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of all kept rows, in order."""
        found = [read_table(folder / "kept.parquet", [name])[name] for folder in self._folders]
        return pa.chunked_array([c for column in found for c in column.chunks], _KEPT.field(name).type)

    def join(self, more: Iterator[pa.Table], left_out: pa.Array, reason: str) -> None:
        """Leave `samples`, `sft` and `rejected` in the draft.

        `more` are further `sft` tables after the kept rows; the kept rows whose number is in `left_out` are
        rejected for `reason`.
        """
        join(self._job.draft / "samples.parquet", SAMPLES, self._tables("samples"))
        kept = (self._split(start, left_out) for start in self._starts())
        join(
            self._job.draft / "sft.parquet",
            SFT,
            _chain((rows.drop_columns(_TOKENS) for rows, _ in kept), more),
        )
        capped = (_as_rejected(self._split(start, left_out)[1], reason) for start in self._starts())
        join(self._job.draft / "rejected.parquet", REJECTED, _chain(self._tables("rejected"), capped))

    def _starts(self) -> Iterator[tuple[int, Path]]:
        start = 0
        for folder in self._folders:
            yield start, folder
            start += pq.read_metadata(folder / "kept.parquet").num_rows

    def _split(self, place: tuple[int, Path], left_out: pa.Array) -> tuple[pa.Table, pa.Table]:
        start, folder = place
        rows = read_table(folder / "kept.parquet")
        out = pc.is_in(pa.array(range(start, start + rows.num_rows), pa.int64()), left_out)
        return rows.filter(pc.invert(out)), rows.filter(out)

    def _tables(self, name: str) -> Iterator[pa.Table]:
        for folder in self._folders:
            yield read_table(folder / f"{name}.parquet")

    def _write(self, folder: Path, shard: CuratedShard) -> None:
        making = folder.with_name(f".{folder.name}")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        sieve = shard.sieve
        tokens = pa.array([c.tokens for c in sieve.kept], pa.int32())
        kept = sft_table(sieve.kept, self._source, self._template).append_column(_TOKENS, tokens)
        write_table(making / "samples.parquet", shard.samples, SAMPLES)
        write_table(making / "kept.parquet", kept, _KEPT)
        write_table(making / "rejected.parquet", rejected_table(sieve.dropped), REJECTED)
        record = {"steps": sieve.steps, "counts": shard.counts, "samples": shard.samples.num_rows}
        write_json(making / "counts.json", record)
        making.rename(folder)

    def _add(self, folder: Path) -> None:
        record = self._record(folder)
        self.samples += record["samples"]
        self.counts.update(record["counts"])
        for _, _, dropped in record["steps"]:
            self.reasons.update(dropped)
        self.kept += record["steps"][-1][1]

    def _record(self, folder: Path) -> dict[str, Any]:
        record = read_json(folder / "counts.json")
        assert record is not None
        return record


def join(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """One Parquet file of many small tables, its row groups of the usual size."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table.cast(schema))
            while sum(part.num_rows for part in waiting) >= ROWS_IN_GROUP:
                whole = pa.concat_tables(waiting)
                writer.write_table(whole.slice(0, ROWS_IN_GROUP), row_group_size=ROWS_IN_GROUP)
                waiting = [whole.slice(ROWS_IN_GROUP)]
        if any(part.num_rows for part in waiting):
            writer.write_table(pa.concat_tables(waiting), row_group_size=ROWS_IN_GROUP)


def _chain(*parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    for part in parts:
        yield from part


def _as_rejected(rows: pa.Table, reason: str) -> pa.Table:
    columns = [rows["problem_id"], rows["completion"], [reason] * rows.num_rows, rows["domain"]]
    return pa.table(columns, REJECTED.names).cast(REJECTED)
