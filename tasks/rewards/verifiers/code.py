"""Code problems: run the program in the sandbox, compare what it gave with what was expected, here.

All cases must pass; the share that does is given too. Function-call problems run all cases in one process,
stdin problems one process a case, stopping at the first case that fails. Unit tests run in a process of
their own beside the program's (`tasks/sandbox/testing.py`). `tasks.rewards.cases` says what the tests of a
problem may be.

A problem's checker runs after the program, in another process of the sandbox, and gets the program's output
as data only. So a program cannot reach it, and a checker that fails on what a program gave makes it wrong.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.rewards.cases import TOLERANCE, Case, CodeTests, read_tests
from tasks.rewards.programs import choose_program, program_text
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rewards.verifier import NO_ANSWER, Bench, CheckFailed, Deferred
from tasks.sandbox import Run, Sandbox
from tasks.sandbox.plain import same_value

if TYPE_CHECKING:
    from tasks.problem import Problem

TOTAL_FACTOR = 5
"""All cases of one program together may take this many times the limit of one."""
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_CALLED = re.compile(r"([A-Za-z_]\w*)\s*\(")
_MOST_DIGITS = 400
"""A longer number is compared as text: no float can hold it."""


def fault(problem: Problem) -> str | None:
    """Why no answer to the problem can be judged, beginning with the key; None if one can."""
    try:
        read_tests(problem.verifier_args)
    except ValueError as found:
        return f"verifier_args.{found}"
    return None


def judge(problem: Problem, completion: str) -> Judgement | Deferred:
    text = program_text(completion)
    return NO_ANSWER if text is None else Deferred("code", text, problem.verifier_args)


def run(bench: Bench, deferred: Deferred) -> Judgement:
    """Raises CheckFailed where the problem's tests are at fault."""
    tests = read_tests(deferred.arguments)
    if tests.unit_tests:
        return _judge_unit_tests(bench, deferred.extracted, tests)
    reads_input = any(str(case.input).strip() for case in tests.cases)
    program = choose_program(deferred.extracted, [tests.function] if tests.function else [], reads_input)
    graded = judge_code(bench.sandbox, program, tests, bench.seconds, bench.every_case)
    share = graded.share if bench.every_case else None
    return Judgement(graded.verdict, program, graded.detail, share)


def _judge_unit_tests(bench: Bench, answer: str, tests: CodeTests) -> Judgement:
    names = [tests.function] if tests.function else _CALLED.findall(tests.unit_tests)
    program = choose_program(answer, names, reads_input=False)
    run, counts = bench.sandbox.run_tests(
        program, tests.unit_tests, tests.entry_point, tests.tolerance, bench.seconds
    )
    if counts and "fault" in counts:
        raise CheckFailed(f"unit_tests: {counts['fault']}")
    if not counts:
        graded = _failure(run, 0, 1)
    else:
        passed, total = counts["passed"], counts["total"]
        graded = _counted(passed, total)
    share = graded.share if bench.every_case else None
    return Judgement(graded.verdict, program, graded.detail, share)


@dataclass(frozen=True)
class Graded:
    verdict: Verdict
    detail: str
    """The reason where the verdict is not `correct`."""
    share: float
    """Of the cases, those that passed."""


def judge_code(
    sandbox: Sandbox, program: str, tests: CodeTests, seconds: float, every_case: bool = False
) -> Graded:
    """Return verdict, reason and share of cases passed.

    With `every_case` each case runs in a process of its own and none is skipped after a failure.

    Raises:
        CheckFailed: the checker does not load.
    """
    if tests.entry_point and not every_case:
        return _judge_calls(sandbox, program, tests, seconds)
    return _judge_each(sandbox, program, tests, seconds, every_case)


def same_text(expected: str, printed: bytes, tolerance: float = TOLERANCE) -> bool:
    """Equal line by line but for trailing white space and empty lines; floats within the tolerance."""
    ours, theirs = _lines(expected), _lines(printed.decode(errors="replace"))
    return len(ours) == len(theirs) and all(
        a == b or _same_numbers(a, b, tolerance) for a, b in zip(ours, theirs, strict=True)
    )


def _same_numbers(expected: str, printed: str, tolerance: float) -> bool:
    """Tell whether two lines differ only in how floats are written, or by less than the tolerance."""
    ours, theirs = (_NUMBER.split(" ".join(line.split())) for line in (expected, printed))
    if len(ours) != len(theirs) or ours[::2] != theirs[::2]:
        return False
    return all(a == b or _same_number(a, b, tolerance) for a, b in zip(ours[1::2], theirs[1::2], strict=True))


def _same_number(expected: str, printed: str, tolerance: float) -> bool:
    a, b = (None if len(text) > _MOST_DIGITS else _number(text) for text in (expected, printed))
    one_is_float = isinstance(a, float) or isinstance(b, float)
    return one_is_float and same_value(a, b, tolerance)


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _judge_calls(sandbox: Sandbox, program: str, tests: CodeTests, seconds: float) -> Graded:
    assert tests.entry_point is not None
    calls = [case.input for case in tests.cases]
    run, values = sandbox.run_calls(program, tests.entry_point, calls, seconds)
    if run.outcome != "ended" or values is None:
        return _failure(run, 0, len(calls))
    return _counted(sum(_pass(sandbox, tests, tests.cases, values, seconds)), len(calls))


def _judge_each(sandbox: Sandbox, program: str, tests: CodeTests, seconds: float, every_case: bool) -> Graded:
    deadline = time.monotonic() + TOTAL_FACTOR * seconds
    passed, failed, total = 0, None, len(tests.cases)
    for case in tests.cases:
        left = deadline - time.monotonic()
        if left <= 0:
            reason = f"{passed} of {total} cases passed in {TOTAL_FACTOR * seconds:g} s"
            return Graded(Verdict.timeout, reason, passed / total)
        run, ok = _run_case(sandbox, program, tests, case, min(seconds, left))
        passed += ok
        failed = failed if ok else failed or run
        if failed and not every_case:
            break
    return _counted(passed, total) if failed is None else _failure(failed, passed, total)


def _run_case(
    sandbox: Sandbox, program: str, tests: CodeTests, case: Case, seconds: float
) -> tuple[Run, bool]:
    if tests.entry_point is None:
        run = sandbox.run_stdin(program, case.input, seconds)
        value: Any = run.output
        if run.outcome != "ended" or run.status != 0:
            return run, False
    else:
        run, values = sandbox.run_calls(program, tests.entry_point, [case.input], seconds)
        if values is None:
            return run, False
        value = values[0]
    return run, _pass(sandbox, tests, [case], [value], seconds)[0]


def _pass(
    sandbox: Sandbox, tests: CodeTests, cases: Sequence[Case], values: Sequence[Any], seconds: float
) -> list[bool]:
    """Tell of each case whether what the program printed (bytes) or returned is right."""
    tolerance = TOLERANCE if tests.tolerance is None else tests.tolerance
    if tests.checker is not None:
        return _checked(sandbox, tests.checker, cases, values, seconds)
    return [
        same_text(case.expected, value, tolerance)
        if tests.entry_point is None
        else same_value(case.expected, value, tolerance)
        for case, value in zip(cases, values, strict=True)
    ]


def _checked(
    sandbox: Sandbox, checker: str, cases: Sequence[Case], values: Sequence[Any], seconds: float
) -> list[bool]:
    """Ask the problem's checker about each case, each time in a new process.

    Raises:
        CheckFailed: it does not load, or defines no `check`.
    """
    passed = []
    for case, value in zip(cases, values, strict=True):
        output = value.decode(errors="replace") if isinstance(value, bytes) else value
        _, said = sandbox.run_calls(checker, "check", [[case.input, case.expected, output]], seconds)
        if said is None and sandbox.run_calls(f"{checker}\ncheck", "check", [], seconds)[1] is None:
            raise CheckFailed("verifier_args.checker does not load, or defines no `check`")
        passed.append(said is not None and said[0] in (True, 1))
    return passed


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
