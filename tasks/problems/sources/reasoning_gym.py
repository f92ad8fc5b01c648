"""Problems of reasoning-gym's generators, graded by its own scorers (synthetic puzzles of paper B.3.1).

A dataset's item i is a function of its seed plus i, so streams with near seeds overlap: the held-out and
the training stream start far apart, and no question is taken twice. What is stored is what is graded: an
entry whose own answer does not get full marks after its way through JSON is left out, with a row.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue

from artifacts.keys import canonical
from tasks.problem import Problem
from tasks.problems.source import Drawn, Source
from tasks.settings import Count, Settings

_DRAWS_PER_PROBLEM = 20
"""How many items are tried for each problem before a dataset counts as exhausted."""

Split = Literal["train", "held_out"]
Scorer = Callable[[str, dict[str, Any]], float]


class GymTask(Settings):
    """Problems of one reasoning-gym dataset."""

    domain: Literal["math", "code", "stem", "logic"]
    train: Count
    held_out: Count
    settings: Annotated[dict[str, JsonValue], AfterValidator(canonical)] = Field(default_factory=dict)
    """The dataset's own settings, e.g. `{max_terms: 3, max_digits: 2}`; its defaults for the rest."""


class ReasoningGym(Source):
    name: Literal["reasoning-gym"] = "reasoning-gym"
    tasks: Annotated[dict[str, GymTask], Field(min_length=1)]
    """Datasets by name."""

    def draw(self, seed: int) -> Drawn:
        return gym_problems(self.tasks, seed)


def gym_problems(tasks: Mapping[str, GymTask], seed: int) -> Drawn:
    """Problems and refused entries; held-out questions are drawn first.

    Raises:
        ValueError: no such dataset, settings that it refuses, or fewer questions than asked for.
    """
    problems: list[Problem] = []
    refused: dict[str, dict[str, str]] = {}
    for name, task in tasks.items():
        _require_known(name)
        taken: set[str] = set()
        problems += _drawn(name, task, "held_out", task.held_out, seed, taken, refused)
        problems += _drawn(name, task, "train", task.train, seed, taken, refused)
    return Drawn(problems, list(refused.values()))


def _drawn(
    name: str, task: GymTask, split: Split, count: int, seed: int, taken: set[str],
    refused: dict[str, dict[str, str]],
) -> list[Problem]:  # fmt: skip
    """`count` problems of questions that are not in `taken`, which they then are."""
    import reasoning_gym

    found: list[Problem] = []
    items = _dataset(name, task, _DRAWS_PER_PROBLEM * count, f"{seed} {split} {name}") if count else ()
    score: Scorer = reasoning_gym.get_score_answer_fn(name)
    for entry in items:
        if len(found) == count:
            break
        question = entry["question"].strip()
        if question in taken:
            continue
        taken.add(question)
        problem, objection = _problem(name, task, split, question, entry, score)
        if objection:
            refused[problem.id] = {
                "problem_id": problem.id, "text": question, "reason": "gold-refused", "detail": objection
            }  # fmt: skip
        else:
            found.append(problem)
    if len(found) < count:
        raise ValueError(
            f"problems.tasks.{name}: {len(found)} different {split} questions that it can grade came of "
            f"{_DRAWS_PER_PROBLEM * count} draws: ask for fewer than {count}, or widen its settings"
        )
    return found


def _dataset(name: str, task: GymTask, size: int, stream: str) -> Any:
    import reasoning_gym

    start = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:4], "big") >> 1
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=start, **task.settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(
            f"problems.tasks.{name}: reasoning-gym refuses these settings ({error or type(error).__name__}): "
            "fix its `settings`"
        ) from error


def _problem(
    name: str, task: GymTask, split: Split, question: str, entry: Mapping[str, Any], score: Scorer
) -> tuple[Problem, str]:
    """The problem, and why it cannot be used (empty where it can)."""
    stored = json.loads(json.dumps(dict(entry), default=str))
    answer = "" if entry["answer"] is None else str(entry["answer"])
    digest = hashlib.sha256(question.encode()).hexdigest()[:12]
    problem = Problem(
        f"{name}-{digest}", task.domain, "en", question, answer, "reasoning_gym",
        {"dataset": name, "entry": stored}, f"reasoning-gym {name}", split=split,
    )  # fmt: skip
    if not answer:
        return problem, "it comes without an answer"
    marks = score(answer, stored)
    return problem, "" if marks >= 1 else f"its own answer scores {marks:.3g}"


def _require_known(name: str) -> None:
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(DATASETS))}"
        raise ValueError(f"problems.tasks.{name}: reasoning-gym has no such dataset; {hint}")
