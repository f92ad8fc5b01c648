"""Math answers: plain ones are compared at once, the others by math-verify in an isolated process."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from tasks.rewards import evaluated, plain_math
from tasks.rewards.extraction import final_answer
from tasks.rewards.numeric import plainly_equal
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rewards.verifier import NO_ANSWER, Deferred, Reply, one_line

if TYPE_CHECKING:
    from tasks.problem import Problem

LASTING = True
"""sympy's caches make a process that served many answers fast, and nothing that it reads is evaluated."""


def judge(problem: Problem, completion: str) -> Judgement | Deferred:
    answer = final_answer(completion)
    if answer is None:
        return NO_ANSWER
    gold, given = plain_math.normalise(problem.answer), plain_math.normalise(answer)
    if not given:
        return Judgement(Verdict.unparseable, answer, "no expression")
    if fault := _fault(gold):
        return Judgement(Verdict.error, answer, f"the gold answer {gold[:60]!r}: {fault}: fix the problem")
    plain = plain_math.decide(gold, given)
    if plain is not None:
        return Judgement(Verdict.correct if plain else Verdict.wrong, answer)
    if refusal := plain_math.screen(given):
        return Judgement(Verdict.unparseable, answer[: plain_math.MAX_ANSWER], refusal)
    return Deferred("math", answer, {"gold": gold, "answer": given})


def _fault(gold: str) -> str | None:
    return plain_math.screen(gold) if gold.strip(".") else "no expression"


# ---- in the isolated process ---------------------------------------------------------------------


def load() -> None:
    """Import math-verify, let it build its parser's tables, and guard what sympy evaluates."""
    decide(r"\frac{1}{2}", "x^2+1")
    evaluated.guard_sympy()


def decide(gold: str, answer: str) -> Reply:
    """Return math-verify's opinion of two normalised answers."""
    import math_verify

    expected = _parse_gold(gold)
    if not expected:
        return Verdict.error, f"the gold answer {gold[:60]!r} cannot be parsed: fix the problem"
    try:
        found = math_verify.parse(as_latex(answer), parsing_timeout=None)
        plain = plainly_equal(expected[0], found[0]) if found else None
        if math_verify.verify(expected, found, timeout_seconds=None) if plain is None else plain:
            return Verdict.correct, ""
    except MemoryError:
        raise
    except Exception as failure:  # noqa: BLE001 - the gold was read, so the answer is what it failed on
        return Verdict.unparseable, one_line(failure)
    return (Verdict.unparseable if all(isinstance(f, str) for f in found) else Verdict.wrong), ""


def as_latex(text: str) -> str:
    """Return the text as math-verify wants it: an expression in dollars, or as it is if it marks its own."""
    marked = any(mark in text for mark in ("$", r"\(", r"\[", r"\boxed"))
    return text if marked else f"${' '.join(text.split())}$"


@cache
def _parse_gold(gold: str) -> list[Any]:
    import math_verify

    return math_verify.parse(as_latex(gold), parsing_timeout=None)
