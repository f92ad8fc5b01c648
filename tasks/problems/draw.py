"""The problems stage: training and held-out sets that share no question (paper B.3.1, D.1).

The sources are the files of `tasks/problems/sources`. Training problems that repeat a question or share a
long n-gram with a held-out one go to `rejected.parquet` with the reason.

    prefect deployment run problems --param preset=tiny
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from artifacts.tables import write_table
from tasks.job import Job
from tasks.problem import Problem, counts, to_table
from tasks.problems.source import Drawn
from tasks.problems.stage import ProblemsConfig
from tasks.tables import PROBLEMS, REJECTED


def run(config: ProblemsConfig, job: Job) -> None:
    """Writes `problems.parquet` and `rejected.parquet`.

    Raises:
        ValueError: where a domain has fewer different questions than asked, or the file is unusable.
    """
    drawn, refused = draw(config)
    kept, contaminated = decontaminate(drawn, config.decontamination_ngram)
    if not any(p.split == "train" for p in kept) or not any(p.split == "held_out" for p in kept):
        raise ValueError("the problems have no training or no held-out split: give both in column `split`")
    write_table(job.draft / "problems.parquet", to_table(kept), PROBLEMS)
    rejected = refused + contaminated
    write_table(job.draft / "rejected.parquet", rejected, REJECTED)
    job.summary(problems=len(kept), rejected=len(rejected), **counts(kept))


def draw(config: ProblemsConfig) -> Drawn:
    """The problems of every source, one after another, and what the sources refused."""
    drawn = [source.draw(config.seed) for source in config.sources]
    return Drawn([p for d in drawn for p in d.problems], [row for d in drawn for row in d.rejected])


def decontaminate(problems: Sequence[Problem], n: int) -> tuple[list[Problem], list[dict[str, str]]]:
    """(kept, rejected rows): training problems that ask a held-out question, or share `n` words in a row."""
    held_out = [p for p in problems if p.split == "held_out"]
    questions = {_folded(p.prompt) for p in held_out}
    grams = {gram for p in held_out for gram in _ngrams(p.prompt, n)}
    kept, rejected = [], []
    for p in problems:
        shared = None if p.split == "held_out" else _overlap(p, questions, grams, n)
        if shared is None:
            kept.append(p)
        else:
            rejected.append(
                {"problem_id": p.id, "text": p.prompt, "reason": "contaminated", "detail": shared}
            )
    return kept, rejected


def _overlap(problem: Problem, questions: set[str], grams: set[tuple[str, ...]], n: int) -> str | None:
    if _folded(problem.prompt) in questions:
        return "same question"
    shared = next((g for g in _ngrams(problem.prompt, n) if g in grams), None)
    return " ".join(shared) if shared else None


def _words(text: str) -> list[str]:
    return re.findall(r"[\u4e00-\u9fff]|[^\W_]+|[^\w\s]", text.lower())


def _folded(text: str) -> str:
    return " ".join(_words(text))


def _ngrams(text: str, n: int) -> Iterable[tuple[str, ...]]:
    """Word n-grams that hold content: the number-free wording of a question is shared by design."""
    words = _words(text)
    grams = (tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return (gram for gram in grams if sum(word.isdigit() for word in gram) >= 2)
