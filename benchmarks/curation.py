"""Curation of the mixture's reasoning samples, shard by shard as the stage does: rows a second, peak memory.

    .venv/bin/python -m benchmarks.curation [--rows 50000] [--characters 2000] [--chinese 0.25]

Synthetic samples (16 of a problem, of `--characters` characters, some of them mixed, repetitive, wrong or
equal) are written as shards; then the real steps run on them: filters, duplicates, the most different ones of
a problem, tables, funnel. Sampling and verifying are left out (`benchmarks.rewards` measures the verifiers).
Peak memory is that of the process and, where there are many rows, its filter processes together.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa

from artifacts.tables import conform, read_table, write_table
from tasks.curation.candidates import Sieve, candidates
from tasks.curation.filtering import Filtering
from tasks.curation.readability import FILTERS
from tasks.curation.shards import CuratedShard, Shards
from tasks.job import Job
from tasks.problem import Problem
from tasks.rejection_sampling.mixture import CAPPED, beyond_the_caps, curate
from tasks.rejection_sampling.stage import RejectionSamplingConfig
from tasks.rollout.sampling import SHARD_COMPLETIONS
from tasks.tables import SAMPLES

SAMPLES_PER_PROBLEM = 16
ENGLISH = (
    "first i look at what is asked and write down the two numbers then the sum of them is because each side "
    "of the triangle has the same length we can divide by three wait that is not right let me check again if "
    "x grows then so does y and therefore the answer must be even which leaves only one case that works out"
)
CHINESE = (
    "首先我们来看题目要求什么然后把两个数相加因为三角形的每条边长度相等所以可以除以三等等这样不对再检查一遍"
)
CONFIG = RejectionSamplingConfig()


def thinking(chance: random.Random, language: str, characters: int) -> str:
    """Paragraphs of about 60 words, one in ten of the texts mixed or repetitive."""
    kind = chance.random()
    parts: list[str] = []
    size = 0
    while size < characters:
        if language == "zh" and kind > 0.05:
            part = "".join(chance.choices(CHINESE, k=60)) + "。"
        else:
            part = " ".join(chance.choices(ENGLISH.split(), k=12)) + f" {chance.randint(0, 999)} + 1."
        if 0.05 < kind < 0.08:
            part = parts[0] if parts else part
        parts.append(part + ("\n\n" if len(parts) % 5 == 4 else " "))
        size += len(part) + 1
    return "".join(parts)[:characters]


def shard(number: int, rows: int, arguments: argparse.Namespace) -> tuple[list[Problem], pa.Table]:
    chance = random.Random(number)
    problems, found = [], []
    for p in range(rows // SAMPLES_PER_PROBLEM):
        language = "zh" if chance.random() < arguments.chinese else "en"
        problem = Problem(
            f"{number}-{p}", chance.choice(["math", "code", "stem"]), language, "q", "7", "math"
        )  # type: ignore[arg-type]
        problems.append(problem)
        for sample in range(SAMPLES_PER_PROBLEM):
            text = thinking(chance, language, arguments.characters)
            correct = chance.random() < 0.7
            found.append(
                {
                    "problem_id": problem.id, "sample_index": sample, "checkpoint": "0" * 64,
                    "prompt": "User: q Assistant:", "prompt_tokens": 4, "completion_tokens": 500,
                    "completion": f" <think> {text} </think> <answer> {7 if correct else 8} </answer>",
                    "thinking": text, "answer": "7", "finish_reason": "stop", "temperature": 1.0,
                    "top_p": 1.0, "max_new_tokens": 4096, "seed": sample, "engine": "synthetic",
                    "verdict": "correct" if correct else "wrong",
                }
            )  # fmt: skip
    return problems, conform(found, SAMPLES)


class PeakMemory:
    """Largest proportional memory (PSS) of this process and its children, looked at ten times a second."""

    def __init__(self) -> None:
        self.bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.1):
            try:
                everyone = [own, *own.children(recursive=True)]
                self.bytes = max(self.bytes, sum(p.memory_full_info().pss for p in everyone))
            except psutil.Error:
                continue

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--characters", type=int, default=2_000)
    parser.add_argument("--chinese", type=float, default=0.25)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names: list[Path] = []
        by_shard: list[list[Problem]] = []
        for number, start in enumerate(range(0, arguments.rows, SHARD_COMPLETIONS)):
            rows = min(SHARD_COMPLETIONS, arguments.rows - start)
            problems, table = shard(number, rows, arguments)
            names.append(write_table(folder / "in" / f"{number:05d}.parquet", table, SAMPLES))
            by_shard.append(problems)
        size = sum(name.stat().st_size for name in names)
        print(f"{arguments.rows:,} samples of {arguments.characters:,} characters, {size / 2**30:.2f} GiB")

        job = Job("mixture", "rejection-sampling", {}, folder / "work" / "mixture")
        job.state.mkdir(parents=True)
        job.draft.mkdir()
        peak, started = PeakMemory(), time.perf_counter()
        numbers = iter(range(len(names)))

        def chunks() -> Iterator[pa.Table]:
            for name in names:
                yield read_table(name)

        with Filtering(list(FILTERS), CONFIG.readability, arguments.rows) as filtering:

            def curate_chunk(chunk: pa.Table) -> CuratedShard:
                found = candidates(chunk, by_shard[next(numbers)])
                return CuratedShard(chunk, curate(Sieve(found), filtering, CONFIG))

            shards = Shards(job, "0" * 64, "r1")
            shards.make(chunks(), arguments.rows, curate_chunk)
            filtered = time.perf_counter() - started
        left_out = beyond_the_caps(shards.column("domain"), {"math": arguments.rows // 8}, 1)
        shards.join(iter(()), left_out, CAPPED)
        shards.funnel().write(job.draft)
        seconds = time.perf_counter() - started
        peak.close()
        rate = arguments.rows / seconds
        memory = peak.bytes / 2**30
        print(f"{seconds:.0f} s, {filtered:.0f} of them filtering: {rate:,.0f} rows/s, {memory:.2f} GiB")
        print(f"kept {shards.kept:,}; {dict(shards.reasons.most_common())}; capped {len(left_out):,}")


if __name__ == "__main__":
    main()
