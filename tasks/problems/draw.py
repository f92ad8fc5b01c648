"""The problems stage: training and held-out sets that share no question (paper B.3.1, D.1).

The sources are the files of `tasks/problems/sources`. What is wrong with a row (a gold that its verifier does
not accept, a question that is asked twice, a near copy of a held-out question) is in `rejected.parquet` with
the reason, and `funnel.parquet` counts rows in, dropped and kept of each step (`cleaning.py`).

    prefect deployment run problems --param preset=tiny
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.benchmarks import known
from tasks.job import Job
from tasks.problem import Problem, counts, from_table, to_table
from tasks.problems.cleaning import Cleaning, Report, silent
from tasks.problems.source import Batch, Drawn, Source
from tasks.problems.spool import write_stream
from tasks.problems.stage import ProblemsConfig
from tasks.tables import PROBLEMS, REJECTED

_REPORT_EVERY = 1.0
"""Seconds between two records of progress."""


def run(config: ProblemsConfig, job: Job) -> None:
    """Writes `problems.parquet`, `rejected.parquet` and `funnel.parquet`.

    Raises:
        ValueError: where a domain has fewer different questions than asked, or the file is unusable.
    """
    cleaning = cleaned(config, job.state, _reporting(job))
    found: Counter[str] = Counter()
    names = {*known(), *(getattr(source, "benchmark", "") for source in config.sources)}
    verifiers: set[str] = set()
    kept = write_stream(
        job.draft / "problems.parquet", _counted(cleaning.kept(), found, verifiers, names), PROBLEMS
    )
    _require_benchmarks(config, found)
    given = {name.rpartition("_")[0] for name in found}
    needed = {"held_out"} if benchmarks_only(config) else {"train", "held_out"}
    if not needed <= given:
        raise ValueError("the problems have no training or no held-out split: give both in column `split`")
    rejected = write_stream(job.draft / "rejected.parquet", cleaning.rejected(), REJECTED)
    cleaning.funnel.write(job.draft)
    reasons: Counter[str] = Counter()
    for step in cleaning.funnel.steps:
        reasons.update({f"rejected_{reason}": count for reason, count in step.dropped.items()})
    for spool in ("drawn.arrow", "refused.arrow"):
        (job.state / spool).unlink()
    job.summary(problems=kept, rejected=rejected, **dict(sorted(found.items())),
                verifiers=" ".join(sorted(verifiers)),
                **dict(sorted(reasons.items())))  # fmt: skip


def benchmarks_only(config: ProblemsConfig) -> bool:
    """Whether the problems are there to evaluate on, and nothing is trained with them."""
    return all(source.name == "benchmark" for source in config.sources)


def cleaned(config: ProblemsConfig, folder: Path, report: Report = silent) -> Cleaning:
    """The rows of all sources after every step. `folder` takes the spool files."""
    cleaning = _without_repeats(config, folder, report)
    if config.near_duplicates is not None:
        cleaning.drop_near_duplicates(config.near_duplicates)
    benchmarks = [p for source in config.benchmarks for p in source.draw(config.seed).problems]
    cleaning.decontaminate(config.decontamination_ngram, benchmarks)
    return cleaning


def draw(config: ProblemsConfig) -> Drawn:
    """The problems of every source before decontamination, and what was refused of them; for small sets."""
    with TemporaryDirectory() as folder:
        return _in_memory(_without_repeats(config, Path(folder), silent))


def decontaminate(problems: Sequence[Problem], n: int) -> tuple[list[Problem], list[dict[str, str]]]:
    """(kept, rejected rows): training problems that are near copies of a held-out one are rejected."""
    with TemporaryDirectory() as folder:
        cleaning = Cleaning(Path(folder))
        cleaning.collect([Batch(to_table(problems), [])])
        cleaning.decontaminate(n)
        return tuple(_in_memory(cleaning))  # type: ignore[return-value]


def _without_repeats(config: ProblemsConfig, folder: Path, report: Report) -> Cleaning:
    cleaning = Cleaning(folder, report)
    cleaning.collect(batches(config))
    cleaning.drop_repeats()
    cleaning.try_references()
    return cleaning


def batches(config: ProblemsConfig) -> Iterator[Batch]:
    """The rows of every source, one source after another; of one with a weight its share of `train`."""
    total = sum(source.weight or 0 for source in config.sources)
    for number, source in enumerate(config.sources):
        if source.weight is None:
            yield from source.batches(config.seed)
        else:
            yield from _share(source, round(config.train * source.weight / total), config.seed, number)


def _share(source: Source, count: int, seed: int, number: int) -> Iterator[Batch]:
    """`count` of a source's training problems, chosen by the seed, and all held-out ones.

    Raises:
        ValueError: the source has fewer.
    """
    if "count" in type(source).model_fields:
        source = source.model_copy(update={"count": max(count, 1)})
    given = list(source.batches(seed))
    table = pa.concat_tables([batch.table for batch in given])
    training = pc.indices_nonzero(pc.equal(table["split"], "train")).to_numpy()
    rejected = [row for batch in given for row in batch.rejected]
    if len(training) + len(rejected) < count:
        raise ValueError(
            f"problems.sources.{number} ({source.name}) has {len(training)} training problems and "
            f"{count} are its "
            "share of `train`: lower `train` or its `weight`"
        )
    chosen = np.random.default_rng([seed, number]).permutation(training)[:count]
    held_out = pc.indices_nonzero(pc.not_equal(table["split"], "train")).to_numpy()
    yield Batch(table.take(pa.array(np.sort(np.concatenate([chosen, held_out])))), rejected)


def _require_benchmarks(config: ProblemsConfig, found: Counter[str]) -> None:
    """Raises ValueError where no question of a benchmark is left: it could not be evaluated later."""
    for source in config.sources:
        name = getattr(source, "benchmark", "")
        if name and not found[f"benchmark_{name}"]:
            raise ValueError(
                f"no question of benchmark {name} is left: check its `path`, `since` and `until`, and that "
                "its answers can be judged"
            )


def _counted(
    tables: Iterable[pa.Table], found: Counter[str], verifiers: set[str], benchmarks: Collection[str]
) -> Iterator[pa.Table]:
    """Pass the tables on, and add to `found` what `tasks.problem.counts` says of them, and the questions of
    each benchmark."""
    for table in tables:
        held_out = table.filter(pc.equal(table["split"], "held_out"))
        for pair in pc.value_counts(held_out["source"]).to_pylist():
            if pair["values"] in benchmarks:
                found[f"benchmark_{pair['values']}"] += pair["counts"]
        general = pc.equal(table["domain"], "general")
        told = counts(from_table(table.filter(general)))
        names = pc.binary_join_element_wise(table["split"], table["domain"], "_")
        told |= {pair["values"]: pair["counts"] for pair in pc.value_counts(names).to_pylist()}
        verifiers.update(pc.unique(table["verifier"]).to_pylist())
        found.update({name: int(count) for name, count in told.items() if name != "verifiers"})
        yield table


def _in_memory(cleaning: Cleaning) -> Drawn:
    kept = [problem for table in cleaning.kept() for problem in from_table(table)]
    return Drawn(kept, [row for table in cleaning.rejected() for row in table.to_pylist()])


def _reporting(job: Job) -> Report:
    told = 0.0

    def report(done: int, total: int, what: str) -> None:
        nonlocal told
        if time.monotonic() - told > _REPORT_EVERY:
            told = time.monotonic()
            job.progress(done, total, what)

    return report
