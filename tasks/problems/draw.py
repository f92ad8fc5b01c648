"""The problems stage: training and held-out sets that share no question (paper B.3.1, D.1).

Sources: the tiny world's generators, reasoning-gym's (`tasks.problems.gym`), or Parquet files of the
`problems` schema, where code problems may come with submissions and generators in place of test cases
(`tasks.problems.test_cases`). Training problems that repeat a question or share a long n-gram with a
held-out one go to `rejected.parquet` with the reason.

    prefect deployment run problems --param preset=tiny
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from artifacts.tables import read_table, write_table
from tasks.job import Job
from tasks.problem import Problem, from_table, to_table
from tasks.problems.gym import gym_problems
from tasks.problems.stage import ProblemsConfig
from tasks.problems.test_cases import with_cases
from tasks.tables import PROBLEMS, REJECTED
from tasks.tiny_world.exercises import Exercise, exercises

_REPOSITORY = Path(__file__).resolve().parents[2]
_MAX_DRAWS_PER_PROBLEM = 400


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
    counts = Counter(f"{p.split}_{p.domain}" for p in kept)
    job.summary(problems=len(kept), rejected=len(rejected), **dict(sorted(counts.items())))


def draw(config: ProblemsConfig) -> tuple[list[Problem], list[dict[str, str]]]:
    """The problems of the source, and rows for `rejected.parquet`."""
    if config.source == "parquet":
        return with_cases(from_parquet(config.path))
    if config.source == "tiny-world":
        return tiny_world(config), []
    problems, refused = gym_problems(config.tasks, config.seed)
    return problems + tiny_world(config), refused


def tiny_world(config: ProblemsConfig) -> list[Problem]:
    """Problems of the tiny world; a question's identity alone decides its split."""
    out: list[Problem] = []
    for split, wanted in (("held_out", config.held_out), ("train", config.train)):
        for domain, count in wanted.items():
            rng = random.Random(f"{config.seed} {split} {domain}")
            stream = (e for e in exercises(domain, rng) if e.held_out == (split == "held_out"))
            out += [_problem(e, split) for e in _distinct(stream, count, f"{domain} {split}")]
    return out


def _distinct(stream: Iterable[Exercise], count: int, what: str) -> list[Exercise]:
    found: dict[str, Exercise] = {}
    for draws, exercise in enumerate(stream):
        if len(found) == count:
            break
        if draws > _MAX_DRAWS_PER_PROBLEM * count:
            raise ValueError(
                f"the tiny world has only {len(found)} {what} questions: ask for fewer than {count}"
            )
        found.setdefault(exercise.question, exercise)
    return list(found.values())


def _problem(exercise: Exercise, split: str) -> Problem:
    digest = hashlib.sha256(exercise.question.encode()).hexdigest()[:12]
    return Problem(
        f"{exercise.domain}-{digest}", exercise.domain, exercise.language, exercise.question,
        exercise.answer, exercise.verifier, exercise.verifier_args, exercise.source, split=split,
    )  # fmt: skip


def from_parquet(path: str) -> list[Problem]:
    """The problems of a file or folder of shards; ids must be unique."""
    found = Path(path) if Path(path).is_absolute() else _REPOSITORY / path
    if not found.exists():
        raise ValueError(f"problems.path {path!r} does not exist: give a Parquet file of the problems schema")
    problems = from_table(read_table(found))
    twice = [i for i, n in Counter(p.id for p in problems).items() if n > 1]
    if twice:
        raise ValueError(f"{path}: problem id {twice[0]!r} occurs twice; ids must be unique")
    return problems


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
