"""The report over nine evaluations of a million samples each: seconds, peak memory, size of the page.

    .venv/bin/python -m benchmarks.report [--rows 1000000] [--characters 2000] [--samples 64] [--folder DIR]

The synthetic samples of `benchmarks.evaluation` are written once, scored as the evaluation scores them, and
linked into nine evaluations and two data sets: the folder (a temporary one, unless DIR is given) holds 3 GB,
not 30. Then the report stage runs in a process of its own. Peak memory is the resident set of that process.
On two cores a million samples of 2,000 characters in each evaluation take at most 4 GiB.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from artifacts.tables import write_table
from benchmarks.evaluation import in_a_process, problems, write_samples
from tasks.job import Job
from tasks.kinds import Kind
from tasks.problem import to_table
from tasks.tables import METRICS, PROBLEMS, QUESTION_SCORES, REJECTED, SCORES, SFT
from tests.report.synthetic import RL, SKILL, World, metrics

_STEPS = 10_400
"""Policy updates of the paper's R1-Zero."""


def write_tables(folder: Path, arguments: argparse.Namespace) -> None:
    """Write each table once, `samples` and those that are made of it."""
    from tasks.evaluate.scores import QuestionSet, question_scores, scores

    asked = problems(arguments.rows // arguments.samples)
    write_samples(folder, arguments)
    sets = [QuestionSet(asked, arguments.samples, (1, 8))]
    by_question = question_scores(folder / "samples.parquet", sets, lambda pairs: [False] * len(pairs))
    write_table(folder / "question_scores.parquet", by_question, QUESTION_SCORES)
    write_table(folder / "scores.parquet", scores(by_question, sets, seed=0), SCORES)
    write_table(folder / "problems.parquet", to_table(asked), PROBLEMS)
    rows = arguments.rows
    text = pa.array(["x"] * rows)
    reasons = pa.array(["wrong_answer", "unparseable"] * (rows // 2) + ["mixed"] * (rows % 2))
    rejected = {"problem_id": text, "text": text, "detail": text, "reason": reasons}
    write_table(folder / "rejected.parquet", pa.table(rejected), REJECTED)
    kept = dict.fromkeys(("problem_id", "language", "prompt", "completion", "source"), text)
    write_table(folder / "sft.parquet", pa.table(kept | {"domain": pa.array(["math"] * rows)}), SFT)


def write_run(folder: Path) -> World:
    """Link the tables into the artifacts of a run."""
    world = World(folder / "inputs")

    def artifact(name: str, kind: Kind, *tables: str) -> None:
        (world.root / name).mkdir(parents=True)
        for table in tables:
            os.link(folder / f"{table}.parquet", world.root / name / f"{table}.parquet")
        if kind == Kind.checkpoint and name.removeprefix("checkpoint.") in RL:
            curves = metrics(name.removeprefix("checkpoint."), _STEPS)
            write_table(world.root / name / "metrics.parquet", curves, METRICS)
        world.seal(name, kind, 100.0)

    artifact("problems", Kind.problems, "problems")
    for node in SKILL:
        artifact(f"checkpoint.{node}", Kind.checkpoint)
    for node in ("cold-start", "mixture"):
        artifact(f"dataset.{node}", Kind.dataset, "samples", "rejected", "sft")
    for node in SKILL:
        artifact(f"evaluation.{node}", Kind.evaluation, "samples", "question_scores", "scores")
    return world


def report(folder: Path, arguments: argparse.Namespace) -> None:
    """Make the report and print what it took."""
    from tasks.report.stage import ReportConfig
    from tasks.report.write import run

    inputs = write_run(folder).inputs
    job = Job(node="report", stage="report", inputs=inputs, folder=folder / "work")
    job.draft.mkdir(parents=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    started, cpu = time.perf_counter(), time.process_time()
    run(ReportConfig(), job)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = (job.draft / "report.html").stat().st_size / 1e6
    print(f"{len(SKILL)} evaluations of {arguments.rows:,} samples: {seconds:.1f} s, {cpu:.1f} s of CPU time")
    print(f"{peak:.2f} GiB peak memory ({before:.2f} before), report.html {size:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--characters", type=int, default=2_000)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="Keeps the tables, and uses them again where they are.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "sft.parquet").exists():
            in_a_process(write_tables, folder, arguments)
        for made in ("inputs", "work"):
            shutil.rmtree(folder / made, ignore_errors=True)
        in_a_process(report, folder, arguments)


if __name__ == "__main__":
    main()
