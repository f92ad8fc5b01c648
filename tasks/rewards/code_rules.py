"""Code problems: run the program in the sandbox, compare what it gave with what was expected, here.

All cases must pass. Function-call problems run all cases in one process, stdin problems one process a
case, stopping at the first case that fails.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from tasks.rewards.sandbox import Run, Sandbox
from tasks.rewards.verdict import Verdict

Reply = tuple[Verdict, str]

TOTAL_FACTOR = 5
"""All stdin cases of one program together may take this many times the limit of one."""


def judge_code(sandbox: Sandbox, program: str, arguments: Mapping[str, Any], seconds: float) -> Reply:
    """Verdict and the reason where it is not `correct`. `arguments` are the problem's `verifier_args`."""
    cases = arguments.get("cases")
    if not cases:
        return Verdict.error, "the problem has no cases: mend its verifier_args"
    if "entry_point" in arguments:
        return _judge_calls(sandbox, program, arguments["entry_point"], cases, seconds)
    return _judge_stdin(sandbox, program, cases, seconds)


def same_value(expected: Any, value: Any) -> bool:
    """Equal as JSON data; floats to nine digits; a bool is never a number."""
    if isinstance(expected, bool) or isinstance(value, bool):
        return expected is value
    if isinstance(expected, float) or isinstance(value, float):
        numbers = isinstance(expected, int | float) and isinstance(value, int | float)
        return numbers and _close(expected, value)
    if isinstance(expected, list | tuple):
        return (
            isinstance(value, list)
            and len(expected) == len(value)
            and all(same_value(e, v) for e, v in zip(expected, value, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and expected.keys() == value.keys()
            and all(same_value(item, value[key]) for key, item in expected.items())
        )
    return type(expected) is type(value) and expected == value


def same_text(expected: str, printed: bytes) -> bool:
    """Equal line by line, trailing white space and trailing empty lines aside."""
    return _lines(expected) == _lines(printed.decode(errors="replace"))


def _judge_calls(sandbox: Sandbox, program: str, entry_point: str, cases: list[Any], seconds: float) -> Reply:
    run, values = sandbox.run_calls(program, entry_point, [case["args"] for case in cases], seconds)
    if run.outcome != "ended" or values is None:
        return _failure(run, "returned no plain values")
    passed = sum(same_value(case["expected"], value) for case, value in zip(cases, values, strict=True))
    return _counted(passed, len(cases))


def _judge_stdin(sandbox: Sandbox, program: str, cases: list[Any], seconds: float) -> Reply:
    deadline = time.monotonic() + TOTAL_FACTOR * seconds
    for passed, case in enumerate(cases):
        left = deadline - time.monotonic()
        if left <= 0:
            return Verdict.timeout, f"{passed} of {len(cases)} cases passed in {TOTAL_FACTOR * seconds:g} s"
        run = sandbox.run_stdin(program, case["stdin"], min(seconds, left))
        if run.outcome != "ended" or run.status != 0:
            return _failure(run, f"ended with status {run.status}")
        if not same_text(case["stdout"], run.output):
            return _counted(passed, len(cases))
    return _counted(len(cases), len(cases))


def _failure(run: Run, reason: str) -> Reply:
    if run.outcome == "deadline":
        return Verdict.timeout, "ran past its time"
    return Verdict.wrong, "wrote more than 1 MiB" if run.outcome == "output" else reason


def _counted(passed: int, total: int) -> Reply:
    if passed == total:
        return Verdict.correct, ""
    return Verdict.wrong, f"{passed} of {total} cases passed"


def _close(a: float, b: float) -> bool:
    try:
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    except OverflowError:
        return False


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
