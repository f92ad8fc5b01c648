"""Scores of an evaluation from its samples: seconds and peak memory.

    .venv/bin/python -m benchmarks.evaluation [--rows 1000000] [--characters 2000] [--samples 64]

Synthetic samples (`--samples` of a question, of `--characters` characters, in five levels, two languages and
three sources, wrong answers of many kinds) are written as the stage writes them. Then a process of its own
makes `question_scores` and `scores` of them, with pass@1, pass@8, pass@N and cons@N. Sampling and verifying
are left out (`benchmarks.rewards` measures the verifiers): two texts are two answers here. Peak memory is the
resident set of that process. On two idle cores a million samples take at most 10 s and 2 GiB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.tables import ROWS_IN_GROUP, conform
from benchmarks.curation import CHINESE, ENGLISH
from tasks.problem import Problem
from tasks.tables import SAMPLES

_TEXTS = 2_000
"""Different pieces of text that completions are put together from."""


def problems(count: int) -> list[Problem]:
    return [
        Problem(
            f"q{i:07d}", ("math", "stem")[i % 2], ("en", "zh")[i % 3 == 0], "q", "0", "math",
            source=("aime24", "math500", "own")[i % 3], level=1 + i % 5, split="held_out",
        )
        for i in range(count)
    ]  # fmt: skip


def write_samples(folder: Path, arguments: argparse.Namespace) -> None:
    """Write `samples.parquet`, some thousand rows at a time."""
    chance = random.Random(0)
    half = arguments.characters // 2
    pieces = [
        "".join(chance.choices(CHINESE, k=half))
        if i % 3 == 0
        else " ".join(chance.choices(ENGLISH.split(), k=half))
        for i in range(_TEXTS)
    ]
    asked = [(p, i) for p in problems(arguments.rows // arguments.samples) for i in range(arguments.samples)]
    with pq.ParquetWriter(folder / "samples.parquet", SAMPLES, compression="zstd") as file:
        for start in range(0, len(asked), ROWS_IN_GROUP):
            part = asked[start : start + ROWS_IN_GROUP]
            file.write_table(_rows(part, pieces, half, chance))


def _rows(asked: list[tuple[Problem, int]], pieces: list[str], half: int, chance: random.Random) -> pa.Table:
    n = len(asked)
    thinking = [chance.choice(pieces)[:half] + chance.choice(pieces)[:half] for _ in asked]
    answers = [str(int(chance.expovariate(0.5))) for _ in asked]
    constant = {
        "checkpoint": "0" * 64, "prompt": "User: q Assistant:", "prompt_tokens": 4, "finish_reason": "stop",
        "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 32_768, "engine": "synthetic 1",
        "reward_format": 1.0,
    }  # fmt: skip
    columns: dict[str, Any] = {
        "problem_id": [p.id for p, _ in asked],
        "sample_index": [i for _, i in asked],
        "completion": [
            f"<think> {t} </think> <answer> {a} </answer>" for t, a in zip(thinking, answers, strict=True)
        ],
        "thinking": thinking,
        "answer": answers,
        "completion_tokens": [chance.randint(300, 900) for _ in asked],
        "seed": range(n),
        "verdict": ["correct" if a == "0" else "wrong" for a in answers],
        "reward_language": [chance.random() for _ in asked],
    }
    return conform(pa.table(columns | {name: [value] * n for name, value in constant.items()}), SAMPLES)


def score(folder: Path, arguments: argparse.Namespace) -> None:
    """Make both tables and print what it took."""
    from tasks.evaluate.scores import QuestionSet, question_scores, scores

    sets = [
        QuestionSet(problems(arguments.rows // arguments.samples), arguments.samples, (8, arguments.samples))
    ]
    started, before = time.perf_counter(), time.process_time()
    by_question = question_scores(folder / "samples.parquet", sets, lambda pairs: [False] * len(pairs))
    middle = time.perf_counter()
    table = scores(by_question, sets, seed=0)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"question_scores  {middle - started:6.1f} s  {by_question.num_rows:,} rows")
    print(f"scores           {ended - middle:6.1f} s  {table.num_rows:,} rows")
    cpu = time.process_time() - before
    print(f"both             {ended - started:6.1f} s  {peak:.2f} GiB peak memory, {cpu:.1f} s of CPU time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--characters", type=int, default=2_000)
    parser.add_argument("--samples", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for step in (write_samples, score):
            in_a_process(step, Path(scratch), arguments)


def in_a_process(step: Callable[..., None], *arguments: Any) -> None:
    """Run a step in a fresh process, so that its memory is its own."""
    process = multiprocessing.get_context("spawn").Process(target=step, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
