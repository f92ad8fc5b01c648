"""Time and memory of cleaning a million problems of 1 kB, and of the usual way on a sample.

    python -m benchmarks.problems                       # a million, then two million, then the usual way
    python -m benchmarks.problems --rows 50000

Each measurement runs in a process of its own: read a Parquet file, drop exact duplicates, decontaminate
against 10,000 benchmark questions, write. The questions are made from word problems, contest tasks and proofs
with other names, objects and numbers, padded with sentences of a vocabulary whose words are as frequent as in
a text (Zipf). 1% are repeats, and 0.1% are copies of benchmark questions in another notation, which must all
be found. Golds are integers, which their verifier accepts without a judge; a gold that is an expression costs
a few milliseconds more, once for each different one.

The usual way is `datasets.map` with Python sets of 10-grams, as it is found in public recipes, on the first
rows of the same file: once with lower case and split words only, and once with the same notation of both
texts (`words_of`), without which it finds neither digits nor LaTeX written differently.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq

from tasks.problem import Problem, to_table
from tasks.tables import PROBLEMS

SENTENCES = (  # never ten words in a row that are the same in every question
    "{name} has {a} {thing} in a {other} and buys {b} more at the market in {place}.",
    "A {other} train leaves {place} at {a} km/h and another {thing} follows {b} minutes later.",
    "Let $x$ be a {other} root of $x^2 - {a}x + {b} = 0$ and let {name} choose an integer $n \\leq {c}$.",
    "Each of the {a} {thing} costs {b} dollars, and {name} pays with a {other} note of {c}.",
    "You are given an array of {a} {other} integers that {name} wrote down in {place}; print "
    "the {thing} in order.",
)
QUESTIONS = (
    "How many {thing} does {name} have after {a} days?",
    "Find the value of $\\frac{{{a}}}{{{b}}} + {c}$.",
    "What is the smallest number of {thing} that {name} needs in {place}?",
)


class Writer:
    """Makes questions: the same words in the same frequencies, other names and numbers."""

    def __init__(self, seed: int) -> None:
        vocabulary = random.Random(1)
        letters = "etaoinshrdlucmfwypvbgk"
        self._words = [
            "".join(vocabulary.choices(letters, k=vocabulary.randint(2, 9))) for _ in range(30_000)
        ]
        self._random = random.Random(seed)
        frequencies = 1 / np.arange(10, len(self._words) + 10)
        self._frequency = frequencies / frequencies.sum()
        self._numbers = np.random.default_rng(seed)
        self._stock: list[str] = []

    def question(self, size: int) -> str:
        """About `size` characters."""
        rng = self._random
        parts = [self._filled(rng.choice(SENTENCES)) for _ in range(2)]
        length = sum(map(len, parts)) + 60
        filler = []
        while length < size:
            word = self._word()
            filler.append(word)
            length += len(word) + 1
        sentences = [" ".join(filler[at : at + 12]).capitalize() + "." for at in range(0, len(filler), 12)]
        return " ".join([*parts, *sentences, self._filled(rng.choice(QUESTIONS))])

    def _word(self) -> str:
        if not self._stock:
            self._stock = [
                self._words[n] for n in self._numbers.choice(len(self._words), 100_000, p=self._frequency)
            ]
        return self._stock.pop()

    def _filled(self, sentence: str) -> str:
        rng = self._random
        return sentence.format(
            name=rng.choice(("Anna", "Bo", "Chen", "Dora", "Emil", "Fay", "Gus", "Hana")), thing=self._word(),
            other=self._word(),
            place=self._word().capitalize(), a=rng.randint(2, 99), b=rng.randint(2, 999),
            c=rng.randint(2, 9999),
        )  # fmt: skip


def write_problems(path: Path, rows: int, benchmark: list[str]) -> int:
    """Write the training problems; returns how many of them are copies of a benchmark question."""
    writer, rng = Writer(2), random.Random(3)
    copies = 0
    with pq.ParquetWriter(path, PROBLEMS, compression="zstd") as file:
        before = ["What is it?"]
        for first in range(0, rows, 8192):
            problems = []
            for row in range(first, min(first + 8192, rows)):
                if row % 1000 == 500:
                    prompt = rewritten(rng.choice(benchmark), rng)
                    copies += 1
                else:
                    prompt = rng.choice(before) if row % 100 == 99 else writer.question(1000)
                problems.append(
                    Problem(f"t{row}", "math", "en", prompt, "7", "math", source="made", split="train")
                )
            before = [p.prompt for p in problems[:50]]
            file.write_table(to_table(problems))
        held_out = [
            Problem("h0", "math", "en", "What is seven times 6 plus zero?", "42", "math", split="held_out")
        ]
        file.write_table(to_table(held_out))
    return copies


def rewritten(question: str, rng: random.Random) -> str:
    """The same question in another notation, with a sentence before it."""
    question = question.replace("$", "").replace("\\leq", "<=")
    written = question.upper() if rng.random() < 0.3 else question
    return f"Exercise {rng.randint(1, 99)}, to be solved on paper. {written}"


def ours(folder: Path) -> None:
    """Clean the file of `folder`; prints seconds and peak memory as JSON."""
    from tasks.job import Job
    from tasks.problems.draw import run
    from tasks.problems.stage import ProblemsConfig

    job = Job("problems", "problems", {}, folder / "work")
    for place in (job.state, job.draft):
        place.mkdir(parents=True, exist_ok=True)
    config = ProblemsConfig.model_validate(
        {
            "sources": [{"name": "parquet", "path": str(folder / "problems.parquet")}],
            "benchmarks": [{"name": "parquet", "path": str(folder / "benchmark.parquet")}],
        }
    )
    started, used = time.perf_counter(), time.process_time()
    run(config, job)
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(time.process_time() - used, 1),
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                **{
                    name: count
                    for name, count in job.headline.items()
                    if "rejected" in name or name == "problems"
                },
            }
        )
    )


def usual(folder: Path, same_notation: bool, sample: int) -> None:
    """The usual way on the first rows; prints seconds as JSON."""
    import datasets

    from tasks.problems.decontamination import words_of

    datasets.disable_progress_bars()
    words = words_of if same_notation else lambda text: text.lower().split()
    table = pq.read_table(folder / "problems.parquet").slice(0, sample)
    held_out = pq.read_table(folder / "benchmark.parquet")["prompt"].to_pylist()
    started = time.perf_counter()
    known = {gram for text in held_out for gram in _grams(words(text))}
    index_seconds = time.perf_counter() - started
    data = datasets.Dataset(table)
    started = time.perf_counter()
    marked = data.map(
        lambda row: {"hit": not known.isdisjoint(_grams(words(row["prompt"])))}, load_from_cache_file=False
    )
    kept = marked.filter(lambda row: not row["hit"], load_from_cache_file=False)
    seen: set[str] = set()
    once = kept.filter(
        lambda row: not (row["prompt"] in seen or seen.add(row["prompt"])), load_from_cache_file=False
    )
    once.to_parquet(str(folder / "usual.parquet"))
    seconds = time.perf_counter() - started
    print(json.dumps({"rows": sample, "seconds": round(seconds, 1), "index_seconds": round(index_seconds, 1),
                      "contaminated": len(data) - len(kept)}))  # fmt: skip


def _grams(words: list[str]) -> set[str]:
    return {" ".join(words[at : at + 10]) for at in range(len(words) - 9)}


def measure(folder: Path, *arguments: str) -> dict[str, float]:
    """Run this script in another process, with the hub's caches in `folder`."""
    command = [sys.executable, "-m", "benchmarks.problems", "--folder", str(folder), *arguments]
    environment = os.environ | {"HF_HOME": str(folder / "hf")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def results(rows: int, sample: int, twice: bool) -> Iterator[str]:
    """Measure, and yield a line for each measurement."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        writer = Writer(1)
        benchmark = [writer.question(350) for _ in range(10_000)]
        problems = [
            Problem(f"b{n}", "math", "en", text, "7", "math", split="held_out")
            for n, text in enumerate(benchmark)
        ]
        pq.write_table(to_table(problems), folder / "benchmark.parquet")
        copies = write_problems(folder / "problems.parquet", rows, benchmark)
        first = measure(folder, "--run", "ours")
        yield f"{rows:,} rows, load {os.getloadavg()[0]:.1f}, {copies} copies planted: {json.dumps(first)}"
        for name in ("usual", "usual-same-notation"):
            found = measure(folder, "--run", name, "--sample", str(min(sample, rows)))
            per_row = found["seconds"] / found["rows"]
            yield (
                f"{name}: {json.dumps(found)}; a row takes {per_row * rows / first['seconds']:.1f} times as "
                "long as here"
            )
        if twice:
            write_problems(folder / "problems.parquet", 2 * rows, benchmark)
            second = measure(folder, "--run", "ours")
            ratio = second["seconds"] / first["seconds"]
            yield f"{2 * rows:,} rows: {json.dumps(second)}; {ratio:.2f} times the time of {rows:,}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=10_000, help="rows of the usual way")
    parser.add_argument("--once", action="store_true", help="do not measure twice the rows")
    parser.add_argument("--run", choices=("ours", "usual", "usual-same-notation"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run == "ours":
        ours(given.folder)
    elif given.run:
        usual(given.folder, given.run == "usual-same-notation", given.sample)
    else:
        for line in results(given.rows, given.sample, not given.once):
            print(line, flush=True)


if __name__ == "__main__":
    main()
