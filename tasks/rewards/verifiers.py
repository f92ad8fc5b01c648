"""What a judge does with one request: math-verify, reasoning-gym's scorers, the rewriting of unit tests.

These functions read text that a model or a stranger's problem file wrote, with libraries that were not made
for that. They run only in the isolated processes of `tasks.rewards.worker`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

from tasks.rewards import evaluated
from tasks.rewards.numeric import plainly_equal
from tasks.rewards.unit_tests import UnitTestError, as_calls
from tasks.rewards.verdict import Verdict

OUT_OF_MEMORY = "out of memory"

Scorer = Callable[[str, dict[str, Any]], float]
Reply = tuple[Verdict, str]

scorers: dict[str, Scorer] = {}
"""Scorers of the data sets that were prepared so far, by name."""
_versions: dict[str, str] = {}


def load(operation: str) -> None:
    """Import what `operation` needs and put the second wall of `tasks.rewards.evaluated` in place."""
    if operation == "math":
        judge_math(r"\frac{1}{2}", "x^2+1")
        evaluated.guard_sympy()
    if operation == "reasoning_gym":
        import reasoning_gym  # noqa: F401
        import sympy  # noqa: F401

        _versions["reasoning_gym"] = version("reasoning-gym")  # its `__version__` is that of another release
        evaluated.guard_sympy()
        evaluated.guard_reasoning_gym()


def prepare(dataset: str) -> None:
    """Make the scorer of a data set, which may read that data set's files. Raises what reasoning-gym does."""
    import reasoning_gym

    if dataset not in scorers:
        scorers[dataset] = reasoning_gym.get_score_answer_fn(dataset)
        evaluated.guard_reasoning_gym()


def judge_math(gold: str, answer: str) -> Reply:
    """Return math-verify's opinion of two normalised answers."""
    import math_verify

    expected = _parse_gold(gold)
    if not expected:
        return Verdict.error, f"the gold answer {gold[:60]!r} cannot be parsed: mend the problem"
    try:
        found = math_verify.parse(as_latex(answer), parsing_timeout=None)
        plain = plainly_equal(expected[0], found[0]) if found else None
        if math_verify.verify(expected, found, timeout_seconds=None) if plain is None else plain:
            return Verdict.correct, ""
    except MemoryError:
        raise
    except Exception as failure:  # noqa: BLE001 - the gold was read, so the answer is what it failed on
        return Verdict.unparseable, _named(failure)
    return (Verdict.unparseable if all(isinstance(f, str) for f in found) else Verdict.wrong), ""


def as_latex(text: str) -> str:
    """Return the text as math-verify wants it: an expression in dollars, or as it is if it marks its own."""
    marked = any(mark in text for mark in ("$", r"\(", r"\[", r"\boxed"))
    return text if marked else f"${' '.join(text.split())}$"


def judge_reasoning_gym(dataset: str, entry: dict[str, Any], answer: str) -> Reply:
    """Score with reasoning-gym's own scorer: full marks are correct, anything less is wrong.

    An answer that the scorer must not see is unparseable; a stored problem that it must not see is an error.
    """
    if reason := evaluated.stored_refusal(dataset, entry):
        return Verdict.error, f"the stored problem of {dataset}: {reason}: fix its verifier_args.entry"
    if reason := evaluated.refusal(dataset, answer, _versions["reasoning_gym"]):
        return Verdict.unparseable, reason
    try:
        score = scorers[dataset](answer, entry)
    except MemoryError:
        raise
    except Exception as failure:  # noqa: BLE001 - scorers raise anything
        scorers[dataset](str(entry["answer"]), entry)  # raises where the problem itself is at fault
        return Verdict.wrong, _named(failure)
    return (Verdict.correct if score >= 1.0 else Verdict.wrong), f"score {score:.3g}"


def rewrite_unit_tests(tests: str) -> dict[str, Any]:
    """Return the rewritten tests and their cases, or {"fault"}: why they cannot be rewritten."""
    try:
        return as_calls(tests)
    except UnitTestError as fault:
        return {"fault": str(fault)}
    except (RecursionError, MemoryError):
        return {"fault": "they are nested too deeply or too long"}


@cache
def _parse_gold(gold: str) -> list[Any]:
    import math_verify

    return math_verify.parse(as_latex(gold), parsing_timeout=None)


def answer_request(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one request; whatever the libraries raise becomes an `error` verdict that names it."""
    try:
        if operation == "unit_tests":
            return rewrite_unit_tests(**arguments)
        verdict, detail = _JUDGES[operation](**arguments)
    except MemoryError:
        verdict, detail = Verdict.timeout, OUT_OF_MEMORY
    except Exception as failure:  # noqa: BLE001 - third-party scorers raise anything; it is reported, not hidden
        verdict, detail = Verdict.error, _named(failure)
    return {"verdict": verdict.value, "detail": detail}


def _named(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"[:300]


_JUDGES: dict[str, Callable[..., Reply]] = {"math": judge_math, "reasoning_gym": judge_reasoning_gym}
