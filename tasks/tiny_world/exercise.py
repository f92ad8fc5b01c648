"""One exercise of the tiny world: a question, how it is graded, and how it is worked out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tasks.problem import Domain, VerifierName
from tasks.tiny_world.lexicon import Clause, Language

Solution = tuple[list[Clause], str]
"""The working and the final answer as text."""
LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Exercise:
    """What the world asks, in one language and one wording."""

    domain: Domain
    language: Language
    level: int
    identity: str
    """What is asked, whatever the wording and the language: decides the split."""
    question: str
    answer: str
    verifier: VerifierName
    solve: Callable[[random.Random, float], Solution]
    """(rng, chance of a slip per step) -> working and answer; no slip gives the right answer."""
    guess: Callable[[random.Random], str]
    """A plausible answer without working."""
    verifier_args: dict[str, Any] = field(default_factory=dict)

    @property
    def held_out(self) -> bool:
        """See `is_held_out`."""
        return is_held_out(self.domain, self.identity)


def is_held_out(domain: str, identity: str) -> bool:
    """One identity in eight is kept for evaluation: no training problem and no document uses it."""
    return hashlib.sha256(f"{domain} {identity}".encode()).digest()[0] < 32


NAMES = ("tom", "ann", "bob", "eve", "max", "zoe", "leo", "mia", "sam", "ivy", "ben", "amy")
"""The people of the world, keys of the lexicon."""
