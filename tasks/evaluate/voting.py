r"""What each sample votes for in cons@k: answers that the verifier calls equal are one candidate.

`1/2`, `0.5` and `\frac{1}{2}` are one answer, also where the answer is wrong. Comparing every pair of
samples would ask the verifier far too often, so
- samples with the same text are one candidate without a question,
- correct answers are one candidate: the verifier called each of them equal to the gold answer,
- only distinct wrong answers are compared, each with one representative of every candidate so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.problem import Problem
from tasks.rewards.extraction import fold
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict

Pair = tuple[Problem, str, str]
"""A problem and two answers to it."""
SameAnswer = Callable[[Sequence[Pair]], Sequence[bool]]
"""Whether the two answers of each pair are equivalent."""

CORRECT = "correct"
"""The one candidate that all correct answers to a problem vote for. Others begin with `=`."""
_COMPARED = frozenset({"math", "choice"})
"""Verifiers that can judge one wrong answer against another: `1/2` and `0.5`, `B` and `(B)`."""
BY_TEXT = frozenset({"code", "instructions"})
"""Verifiers with which each distinct text is a candidate, correct or not: programs and letters are no values
to vote for."""


@dataclass
class _Ballot:
    """The vote on one question while its wrong answers are compared."""

    problem: Problem
    waiting: list[str]
    """Distinct answers that no candidate stands for yet."""
    stands_for: dict[str, str] = field(default_factory=dict)
    """Distinct answer -> the representative of its candidate."""

    @property
    def representatives(self) -> list[str]:
        return list(dict.fromkeys(self.stands_for.values()))

    def pairs(self) -> list[Pair]:
        """The next waiting answer beside each representative."""
        return [(self.problem, other, self.waiting[0]) for other in self.representatives if self.waiting]

    def decide(self, same: Sequence[bool]) -> None:
        """Let the next waiting answer join the first candidate that is the `same`, or be one of its own."""
        answer = self.waiting.pop(0)
        joined = (other for other, equal in zip(self.representatives, same, strict=True) if equal)
        self.stands_for[answer] = next(joined, answer)


def votes(
    questions: Sequence[tuple[Problem, Sequence[Mapping[str, Any]]]], same: SameAnswer
) -> list[list[str | None]]:
    """Return, for each question, what each of its judged samples votes for; None for one without an answer.

    All questions are compared in rounds, an answer a question a round, so that `same` gets large batches.
    """
    ballots = [_Ballot(problem, _to_compare(problem, rows)) for problem, rows in questions]
    while open_ballots := [ballot for ballot in ballots if ballot.waiting]:
        pairs = [pair for ballot in open_ballots for pair in ballot.pairs()]
        answers = iter(same(pairs))
        for ballot in open_ballots:
            ballot.decide([next(answers) for _ in ballot.representatives])
    return [
        [_candidate(problem, row, ballot.stands_for) for row in rows]
        for (problem, rows), ballot in zip(questions, ballots, strict=True)
    ]


def verified_equivalence(pool: VerifierPool) -> SameAnswer:
    """Return the test for equivalence that takes one answer as gold and judges the other against it."""

    def same(pairs: Sequence[Pair]) -> list[bool]:
        problems = [replace(problem, answer=gold) for problem, gold, _ in pairs]
        completions = [f"<answer> {answer} </answer>" for _, _, answer in pairs]
        return [j is not None and j.verdict is Verdict.correct for j in pool.verify(problems, completions)]

    return same


def _to_compare(problem: Problem, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The distinct answers that need the verifier: wrong ones of a math or choice problem, in order.

    An answer that was unparseable, or ran into the time limit against the gold answer, would do so against
    every other one: it is left to the comparison of texts, or a hostile answer could cost minutes.
    """
    if problem.verifier not in _COMPARED:
        return []
    return list(dict.fromkeys(_text(problem, row) for row in rows if row["verdict"] == Verdict.wrong))


def _candidate(problem: Problem, row: Mapping[str, Any], stands_for: Mapping[str, str]) -> str | None:
    if row["answer"] is None:
        return None
    if problem.verifier not in BY_TEXT and row["verdict"] == Verdict.correct:
        return CORRECT
    text = _text(problem, row)
    return f"={stands_for.get(text, text)}"


def _text(problem: Problem, row: Mapping[str, Any]) -> str:
    """The answer as texts are compared: white space folded; case and width too where neither has a meaning.

    In a program `x` and `X` are two names; in math the verifier decides.
    """
    answer: str = row["answer"]
    return " ".join(answer.split()) if problem.verifier in ("math", *BY_TEXT) else fold(answer)
