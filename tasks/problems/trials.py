"""Golds and reference solutions are tried against their own verifier: what fails would never earn reward.

A gold that the verifier cannot read rewards nothing, or everything; tests that the reference solution fails
reward nothing that is right.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from tasks.problem import Problem
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Judgement, Verdict
from tasks.sandbox import WeakSandboxError

Objection = tuple[str, str]
TRIED = ("math", "choice", "exact")
"""Verifiers whose gold must be accepted as an answer to its own question."""
_PLAIN = r"^-?\d{1,15}(\.\d{1,9})?$"
"""Golds that the verifier reads as numbers without a judge; they are equal to themselves."""
_SECONDS = 10.0
"""For one gold or solution. Long, because which problems stay must not depend on the load."""
_log = logging.getLogger(__name__)


class Trials:
    """Tries golds; each different one once, whatever the number of its problems. Use it as a context
    manager."""

    def __init__(self) -> None:
        self._pool = VerifierPool(workers=2, seconds_per_item=_SECONDS)
        self._known: dict[tuple[str, str], str] = {}
        self._weak = ""

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()
        if self._weak:
            _log.warning("some golds and reference solutions were not tried: %s", self._weak)

    def golds(self, table: pa.Table) -> dict[int, Objection]:
        """Return place in `table` -> objection, of golds that are not accepted as their own answer."""
        from tasks.problem import from_table

        plain = pc.match_substring_regex(table["answer"], _PLAIN)
        asked = pc.and_(pc.is_in(table["verifier"], pa.array(TRIED)), pc.invert(plain))
        places = pc.indices_nonzero(asked).to_pylist()
        if not places:
            return {}
        problems = from_table(table.take(pa.array(places)))
        wanted = {self._key(p): p for p in problems if self._key(p) not in self._known}
        texts = [f"<think></think><answer>{_as_answer(p)}</answer>" for p in wanted.values()]
        for key, judgement in zip(wanted, self._judged(list(wanted.values()), texts), strict=True):
            self._known[key] = _fault(judgement)
        return {
            place: (
                "gold-refused",
                f"{p.verifier} does not accept the gold {p.answer[:60]!r} as an answer: {fault}",
            )
            for place, p in zip(places, problems, strict=True)
            if (fault := self._known[self._key(p)])
        }

    def references(self, rows: Iterable[tuple[int, Problem]]) -> dict[int, Objection]:
        """Return row -> objection, of code problems whose answer does not pass their own tests."""
        tried = [(row, p) for row, p in rows if p.verifier == "code" and p.answer.strip()]
        problems = [p for _, p in tried]
        judged = self._judged(
            problems, [f"<think></think><answer>{_fenced(p.answer)}</answer>" for p in problems]
        )
        return {
            row: ("reference-fails", fault)
            for (row, _), j in zip(tried, judged, strict=True)
            if (fault := _fault(j))
        }

    def _judged(self, problems: list[Problem], texts: list[str]) -> list[Judgement | None]:
        if self._weak:
            return [None] * len(problems)
        try:
            return self._pool.verify(problems, texts)
        except WeakSandboxError as weak:
            self._weak = str(weak)
            return [None] * len(problems)

    @staticmethod
    def _key(problem: Problem) -> tuple[str, str]:
        options = str(problem.verifier_args) if problem.verifier == "choice" else ""
        return problem.verifier + options, problem.answer


def _as_answer(problem: Problem) -> str:
    """Return the gold as models write it. A math verifier accepts the same text unread, but not inside a
    box."""
    boxed = problem.verifier == "math" and "\\boxed" not in problem.answer
    return f"\\boxed{{{problem.answer}}}" if boxed else problem.answer


def _fault(judgement: Judgement | None) -> str:
    if judgement is None or judgement.verdict == Verdict.correct:
        return ""
    return f"{judgement.verdict.value}: {judgement.detail}" if judgement.detail else judgement.verdict.value


def _fenced(program: str) -> str:
    """Return a program in a fence that it does not hold itself; one that comes in a fence as it is."""
    if program.lstrip().startswith(("```", "~~~")):
        return program
    fence = "`" * 3
    while fence in program:
        fence += "`"
    return f"{fence}python\n{program}\n{fence}"
