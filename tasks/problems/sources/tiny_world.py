"""Problems of the tiny world's generators in five levels; a question's identity alone decides its split."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tasks.problem import Domain, Problem, Split
from tasks.problems.source import Drawn, Source
from tasks.settings import Count

if TYPE_CHECKING:
    from tasks.tiny_world.exercise import Exercise

_MAX_DRAWS_PER_PROBLEM = 400
"""A domain that needs more draws than this to find another new question has run out of questions."""


Counts = Annotated[dict[Domain, Count], Field(min_length=1)]


class TinyWorld(Source):
    name: Literal["tiny-world"] = "tiny-world"
    train: Counts
    """How many training problems of each domain, a fifth of each level."""
    held_out: Counts
    """How many questions of each domain no stage trains on. Of general prompts at the level that has requests
    which may be harmful, half are such, or a table would tell a checkpoint's safety from one or two."""

    def draw(self, seed: int) -> Drawn:
        """Raises ValueError where a domain has fewer different questions than asked for."""
        from tasks.tiny_world.exercise import LEVELS
        from tasks.tiny_world.exercises import exercises
        from tasks.tiny_world.talk import HARM_LEVEL

        problems: list[Problem] = []
        both: dict[Split, dict[Domain, int]] = {"held_out": self.held_out, "train": self.train}
        for split, wanted in both.items():
            for domain, count in wanted.items():
                for level, share in zip(LEVELS, _shares(count), strict=True):
                    rng = random.Random(f"{seed} {split} {domain} {level}")
                    only = [float(other == level) for other in LEVELS]
                    stream = (e for e in exercises(domain, rng, only) if e.held_out == (split == "held_out"))
                    halved = split == "held_out" and domain == "general" and level == HARM_LEVEL
                    most = -(-share // 2) if halved else share
                    found = _distinct(stream, share, most, f"{domain} {split} level {level}")
                    problems += [as_problem(e, split) for e in found]
        return Drawn(problems, [])


def _shares(count: int) -> list[int]:
    """`count` over the five levels, as evenly as it goes."""
    return [count * level // 5 - count * (level - 1) // 5 for level in range(1, 6)]


def _distinct(stream: Iterable[Exercise], count: int, most: int, what: str) -> list[Exercise]:
    """`count` different questions, at most so many of one set of general prompts."""
    found: dict[str, Exercise] = {}
    sets: Counter[str] = Counter()
    for draws, exercise in enumerate(stream):
        if len(found) == count:
            break
        if draws > _MAX_DRAWS_PER_PROBLEM * count:
            raise ValueError(
                f"the tiny world has only {len(found)} {what} questions: ask for fewer than {count}"
            )
        belongs = exercise.verifier_args.get("set", "")
        if exercise.question not in found and sets[belongs] < most:
            found[exercise.question] = exercise
            sets[belongs] += 1
    return list(found.values())


def as_problem(exercise: Exercise, split: Split) -> Problem:
    """The exercise as a row of the problems table; its id is a digest of the question."""
    digest = hashlib.sha256(exercise.question.encode()).hexdigest()[:12]
    return Problem(
        f"{exercise.domain}-{digest}", exercise.domain, exercise.language, exercise.question,
        exercise.answer, exercise.verifier, exercise.verifier_args, "tiny-world", split=split,
        level=exercise.level,
    )  # fmt: skip
