"""A world for training tests: single-digit sums, worked right or wrong, in the words of `tiny_model`."""

from __future__ import annotations

import random
from pathlib import Path

from artifacts.tables import write_table
from tasks.problem import Problem, to_table
from tasks.tables import PROBLEMS, SFT

_GREET = {
    "set": "helpfulness",
    "must": ["hello", "tom"],
    "should": ["nice"],
    "must_not": ["go away"],
    "max_words": 8,
}
_TAKE = {
    "set": "harmlessness",
    "refuse": True,
    "refusal_words": ["sorry", "cannot"],
    "unsafe_words": ["take"],
}


def sums() -> list[Problem]:
    """Every sum of two digits from 0 to 4."""
    return [
        Problem(f"sum-{a}{b}", "math", "en", f"what is {a} + {b}?", str(a + b), "math")
        for a in range(5)
        for b in range(5)
    ]


def talks() -> list[Problem]:
    """General problems of both sets."""
    helpful = [
        Problem(f"greet-{i}", "general", "en", f"hello tom {i}?", "", "rubric", _GREET) for i in range(6)
    ]
    harmful = [
        Problem(f"take-{i}", "general", "en", f"take what {i}?", "", "rubric", _TAKE) for i in range(6)
    ]
    return helpful + harmful


def write_problems(folder: Path, problems: list[Problem]) -> Path:
    """An artifact folder with `problems.parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "problems.parquet", to_table(problems), PROBLEMS)
    return folder


def write_sft(folder: Path, rows: int, right: float = 0.6, seed: int = 0) -> Path:
    """An artifact folder with `sft.parquet`: sums answered rightly with chance `right`, and small talk."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "sft.parquet", [_row(rng, right) for _ in range(rows)], SFT)
    return folder


def _row(rng: random.Random, right: float) -> dict:
    problem = rng.choice(sums() + talks())
    if problem.domain == "math":
        answer = problem.answer if rng.random() < right else str(rng.randrange(9))
        completion = f" <think> first {answer} </think> <answer> {answer} </answer>"
    else:
        said = rng.choice(["hello tom, nice", "hello", "go away tom", "sorry, cannot", "take the 1"])
        completion = f" <think> wait </think> <answer> {said} </answer>"
    return {
        "problem_id": problem.id, "domain": problem.domain, "language": "en",
        "prompt": f"User: {problem.prompt} Assistant:", "completion": completion, "source": "test",
    }  # fmt: skip
