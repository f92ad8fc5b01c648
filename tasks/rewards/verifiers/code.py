"""Code problems: run the program in the sandbox, compare what it gave with what was expected, here.

All cases must pass; the share that does is given too. Function-call problems run all cases in one process,
stdin problems one process a case, stopping at the first case that fails. Bug-fix problems come with unit
tests, whose assertions are turned into calls (`tasks.rewards.unit_tests`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.rewards.checks import holds, same_value
from tasks.rewards.extraction import final_program
from tasks.rewards.unit_tests import with_tests
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rewards.verifier import NO_ANSWER, Bench, Deferred
from tasks.sandbox import Run, Sandbox

if TYPE_CHECKING:
    from tasks.problem import Problem

TOTAL_FACTOR = 5
"""All cases of one program together may take this many times the limit of one."""


def judge(problem: Problem, completion: str) -> Judgement | Deferred:
    program = final_program(completion)
    return NO_ANSWER if program is None else Deferred("code", program, problem.verifier_args)


def run(bench: Bench, deferred: Deferred) -> Judgement:
    """Raises CheckFailed where the problem's unit tests cannot be rewritten."""
    program = deferred.extracted
    arguments: Mapping[str, Any] = deferred.arguments
    if "unit_tests" in arguments:
        program, arguments = with_tests(program, bench.rewrite_unit_tests(arguments["unit_tests"]))
    graded = judge_code(bench.sandbox, program, arguments, bench.seconds, bench.every_case)
    share = graded.share if bench.every_case else None
    return Judgement(graded.verdict, deferred.extracted, graded.detail, share)


@dataclass(frozen=True)
class Graded:
    verdict: Verdict
    detail: str
    """The reason where the verdict is not `correct`."""
    share: float
    """Of the cases, those that passed."""


def judge_code(
    sandbox: Sandbox, program: str, arguments: Mapping[str, Any], seconds: float, every_case: bool = False
) -> Graded:
    """Verdict, reason and share of cases passed. `arguments` are the problem's `verifier_args`.

    With `every_case` each case runs in a process of its own and none is skipped after a failure.
    """
    cases = arguments.get("cases")
    if not cases:
        return Graded(Verdict.error, "the problem has no cases: fix its verifier_args", 0.0)
    if "entry_point" in arguments and not every_case:
        return _judge_calls(sandbox, program, arguments["entry_point"], cases, seconds)
    return _judge_each(sandbox, program, arguments.get("entry_point"), cases, seconds, every_case)


def same_text(expected: str, printed: bytes) -> bool:
    """Equal line by line, trailing white space and trailing empty lines aside."""
    return _lines(expected) == _lines(printed.decode(errors="replace"))


def _judge_calls(
    sandbox: Sandbox, program: str, entry_point: str, cases: list[Any], seconds: float
) -> Graded:
    run, values = sandbox.run_calls(program, entry_point, [case["args"] for case in cases], seconds)
    if run.outcome != "ended" or values is None:
        return _failure(run, 0, len(cases))
    passed = sum(_passes(case, value) for case, value in zip(cases, values, strict=True))
    return _counted(passed, len(cases))


def _judge_each(
    sandbox: Sandbox,
    program: str,
    entry_point: str | None,
    cases: list[Any],
    seconds: float,
    every_case: bool,
) -> Graded:
    deadline = time.monotonic() + TOTAL_FACTOR * seconds
    passed, failed = 0, None
    for case in cases:
        left = deadline - time.monotonic()
        if left <= 0:
            reason = f"{passed} of {len(cases)} cases passed in {TOTAL_FACTOR * seconds:g} s"
            return Graded(Verdict.timeout, reason, passed / len(cases))
        run, ok = _run_case(sandbox, program, entry_point, case, min(seconds, left))
        passed += ok
        failed = failed if ok else failed or run
        if failed and not every_case:
            break
    return _counted(passed, len(cases)) if failed is None else _failure(failed, passed, len(cases))


def _run_case(
    sandbox: Sandbox, program: str, entry_point: str | None, case: Any, seconds: float
) -> tuple[Run, bool]:
    if entry_point is None:
        run = sandbox.run_stdin(program, case["stdin"], seconds)
        return run, run.outcome == "ended" and run.status == 0 and same_text(case["stdout"], run.output)
    run, values = sandbox.run_calls(program, entry_point, [case["args"]], seconds)
    return run, values is not None and _passes(case, values[0])


def _passes(case: Mapping[str, Any], value: Any) -> bool:
    """Compare what a call returned, as JSON gave it, with what its case expects."""
    if "checks" not in case:
        return same_value(case["expected"], value)
    checks = case["checks"]
    return isinstance(value, list) and len(value) == len(checks) and all(map(holds, checks, value))


def _failure(run: Run, passed: int, total: int) -> Graded:
    if run.outcome == "deadline":
        return Graded(
            Verdict.timeout, f"{passed} of {total} cases passed, one ran past its time", passed / total
        )
    if run.outcome == "output":
        return Graded(Verdict.wrong, "wrote more than 1 MiB", passed / total)
    if run.status != 0:
        reason = f"{passed} of {total} cases passed, one ended with status {run.status}"
        return Graded(Verdict.wrong, reason, passed / total)
    return _counted(passed, total)


def _counted(passed: int, total: int) -> Graded:
    if passed == total:
        return Graded(Verdict.correct, "", 1.0)
    return Graded(Verdict.wrong, f"{passed} of {total} cases passed", passed / total)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
