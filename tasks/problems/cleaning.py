"""Cleans the rows of all sources: each step drops rows with a reason, and no row is lost without one.

Rows lie in a spool file on disk. A step reads the columns that it needs part by part and leaves objections,
row -> (reason, detail); the kept rows are read once more when they are written. What is in memory for every
row is a few numbers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from artifacts.tables import conform
from tasks.funnel import Funnel
from tasks.problem import Problem, from_table
from tasks.problems.decontamination import CopyFinder
from tasks.problems.repeats import near_duplicates, repeats, text_keys
from tasks.problems.source import Batch
from tasks.problems.spool import Spool
from tasks.problems.trials import Objection, Trials
from tasks.tables import PROBLEMS, REJECTED

Report = Callable[[int, int, str], None]
"""Called with rows done, rows in all (0: unknown) and what is being done."""
_log = logging.getLogger(__name__)


def silent(done: int, total: int, what: str) -> None:
    """Report nothing."""


class Cleaning:
    """The rows of all sources, and what is wrong with some of them."""

    def __init__(self, folder: Path, report: Report = silent) -> None:
        """`folder` takes the spool files, as large as the text of all rows."""
        self.funnel = Funnel()
        self._spool = Spool(folder / "drawn.arrow", PROBLEMS)
        self._refused = Spool(folder / "refused.arrow", REJECTED)
        self._objections: dict[int, Objection] = {}
        self._report = report
        self._keys: list[NDArray[np.uint64]] = []
        self._ids: list[NDArray[np.int64]] = []
        self._code: list[int] = []

    @property
    def rows(self) -> int:
        return self._spool.rows

    def collect(self, batches: Iterable[Batch]) -> None:
        """Take the rows of all sources, and try the golds. The first step.

        Raises:
            ValueError: two problems have one id.
        """
        refused: Counter[str] = Counter()
        fallen: Counter[str] = Counter()
        with Trials() as trials:
            for batch in batches:
                if batch.rejected:
                    refused.update(row["reason"] for row in batch.rejected)
                    self._refused.append(conform(batch.rejected, REJECTED))
                if not batch.table.num_rows:  # pyarrow 26 crashes on computations without a chunk
                    continue
                table = batch.table.combine_chunks()
                first = self.rows
                for place, objection in trials.golds(table).items():
                    self._objections[first + place] = objection
                    fallen[objection[0]] += 1
                for chunk in table["prompt"].chunks:
                    self._keys.append(text_keys(chunk))
                self._ids.append(np.fromiter(map(hash, table["id"].to_pylist()), np.int64, table.num_rows))
                solved = pc.and_(pc.equal(table["verifier"], "code"), pc.not_equal(table["answer"], ""))
                self._code += (pc.indices_nonzero(solved).to_numpy() + first).tolist()
                self._spool.append(table)
                self._report(self.rows, 0, "drawn")
        self._spool.close()
        self._refused.close()
        self._require_ids()
        self.funnel.add("rows of the sources", self.rows, refused)
        self.funnel.add("golds", self.rows - fallen.total(), fallen)

    def drop_repeats(self) -> None:
        """Drop questions that are asked twice in a split."""
        if not self.rows:
            return
        _, place, count = np.unique(np.concatenate(self._keys), return_inverse=True, return_counts=True)
        self._step("exact duplicates", repeats(self._problems(np.flatnonzero(count[place] > 1))))

    def try_references(self) -> None:
        """Drop code problems whose reference solution fails their tests."""
        with Trials() as trials:
            found = trials.references(self._problems(np.array(self._code, np.int64)))
        self._step("reference solutions", found)

    def drop_near_duplicates(self, similarity: float) -> None:
        """Drop training problems that share most of their words with an earlier one of the same answer."""
        training = ((row, p) for row, p in self._problems(np.arange(self.rows)) if p.split == "train")
        self._step("near duplicates", dict(near_duplicates(training, similarity)))

    def decontaminate(self, shortest: int, benchmarks: Sequence[Problem] = ()) -> None:
        """Drop training problems that are near copies of a held-out problem, or of one of a benchmark."""
        held_out = [("held-out", p) for _, p in self._held_out()] + [("benchmark", p) for p in benchmarks]
        texts = [p.prompt for _, p in held_out]
        found: dict[int, Objection] = {}
        if texts:
            with CopyFinder(texts, shortest) as finder:
                training: list[NDArray[np.int64]] = []
                for first, part in self._spool.parts(["prompt", "split"]):
                    kept = self._mask(first, part.num_rows) & ~_equal(part["split"], "held_out")
                    places = np.flatnonzero(kept)
                    training.append(places + first)
                    finder.add(
                        _one_chunk(
                            part["prompt"]
                            if len(places) == part.num_rows
                            else part["prompt"].take(pa.array(places))
                        )
                    )
                    self._report(first + part.num_rows, self.rows, "decontamination")
                rows = np.concatenate([*training, np.zeros(0, np.int64)]).astype(np.int64)
                wanted = np.array(finder.rows_to_read(), np.int64)
                for number, match in finder.matches(self._texts(rows[wanted], wanted)).items():
                    kind, problem = held_out[match.question]
                    detail = f"{match.share:.0%} of {kind} problem {problem.id}: {match.span}"
                    found[int(rows[number])] = ("contaminated", detail)
        self._step("decontamination", found)

    def kept(self) -> Iterator[pa.Table]:
        """Yield the rows that nothing objects to, in order."""
        for first, part in self._spool.parts():
            mask = self._mask(first, part.num_rows)
            if mask.any():
                yield part if mask.all() else part.filter(pa.array(mask))
            self._report(first + part.num_rows, self.rows, "written")

    def rejected(self) -> Iterator[pa.Table]:
        """Yield the other rows with their reasons: first those that a source refused."""
        yield from (part for _, part in self._refused.parts())
        objected = np.array(sorted(self._objections), np.int64)
        for rows, part in self._spool.chosen(objected):
            reasons, details = zip(*(self._objections[row] for row in rows.tolist()), strict=True)
            columns = [part["id"], part["prompt"], pa.array(reasons), pa.array(details)]
            yield pa.table(dict(zip(REJECTED.names, columns, strict=True)), schema=REJECTED)

    def _step(self, name: str, found: dict[int, Objection]) -> None:
        before = self.rows - len(self._objections)
        fresh = {row: objection for row, objection in found.items() if row not in self._objections}
        self._objections |= fresh
        self.funnel.add(name, before - len(fresh), Counter(reason for reason, _ in fresh.values()))
        self._report(self.rows, self.rows, name)

    def _mask(self, first: int, count: int) -> NDArray[np.bool_]:
        return np.fromiter((row not in self._objections for row in range(first, first + count)), bool, count)

    def _problems(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, Problem]]:
        """Yield some rows as problems, without those that something objects to."""
        for numbers, part in self._spool.chosen(rows):
            yield from (
                (row, problem)
                for row, problem in zip(numbers.tolist(), from_table(part), strict=True)
                if row not in self._objections
            )

    def _held_out(self) -> Iterator[tuple[int, Problem]]:
        rows = [
            np.flatnonzero(_equal(part["split"], "held_out")) + first
            for first, part in self._spool.parts(["split"])
        ]
        yield from self._problems(np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int64))

    def _texts(self, rows: NDArray[np.int64], numbers: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
        place = 0
        for found, part in self._spool.chosen(rows):
            for text in part["prompt"].to_pylist():
                yield int(numbers[place]), text
                place += 1
            self._report(int(found[-1]), self.rows, "comparison with held-out problems")

    def _require_ids(self) -> None:
        ids = np.concatenate([*self._ids, np.zeros(0, np.int64)])
        if len(np.unique(ids)) == len(ids):
            return
        values, counts = np.unique(ids, return_counts=True)
        twice = set(values[counts > 1].tolist())
        suspects = (
            i for _, part in self._spool.parts(["id"]) for i in part["id"].to_pylist() if hash(i) in twice
        )
        name, times = Counter(suspects).most_common(1)[0]
        if times > 1:
            raise ValueError(
                f"problem id {name[:60]!r} occurs twice: make the ids unique; of two sources that read the "
                "same "
                "set give one a `label`"
            )


def _equal(column: pa.ChunkedArray, value: str) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(column, value).to_numpy(), bool)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
