"""What a code problem is judged by: its `verifier_args` in one form, whoever wrote them.

    cases          [{"stdin", "stdout"}] for programs, [{"args", "expected"}] with `entry_point` for functions
    unit_tests     assertions, a list of them, or a test file (`tasks/sandbox/testing.py`)
    tolerance      largest relative or absolute difference at which two floats are equal (1e-6)
    checker        Python source of `check(input, expected, output)`, which replaces the comparison

Other projects' names are read where their meaning is plain: `input` and `output` of a case; `inputs`,
`outputs` and `fn_name` of APPS and verl's prime_code, in which call results may be wrapped in a list of one;
`test` of HumanEval; `test_list`, `test_setup_code` and `test_imports` of MBPP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOLERANCE = 1e-6
"""Usual in contests for printed and returned floats."""
_ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(?:\(\))?(?:\.[A-Za-z_]\w*)?")
_SUBMISSIONS = "submissions"
"""Code problems with these get their cases in the problems stage (`tasks.problems.test_cases`)."""


@dataclass(frozen=True)
class Case:
    """One run of a program or one call of a function, and what should come of it."""

    input: Any
    """Text for a program, the list of arguments for a function."""
    expected: Any


@dataclass(frozen=True)
class CodeTests:
    entry_point: str | None
    """The function to call: `add`, `Solution.add` or `Solution().add`; None for programs run as a whole."""
    cases: tuple[Case, ...]
    unit_tests: str
    """Python source; empty where cases judge."""
    tolerance: float | None
    """None where the problem does not say."""
    checker: str | None

    @property
    def function(self) -> str | None:
        """The bare name of the function to call."""
        return self.entry_point.rpartition(".")[2] if self.entry_point else None


def read_tests(arguments: Mapping[str, Any]) -> CodeTests:
    """Return the tests of a code problem.

    Raises:
        ValueError: a key is missing or holds what it cannot hold; one sentence that begins with the key.
    """
    entry_point = _text(arguments, "entry_point", "fn_name")
    if entry_point is not None and not _ENTRY_POINT.fullmatch(entry_point):
        raise ValueError(
            f"entry_point {entry_point[:60]!r} must be like `add`, `Solution.add` or `Solution().add`"
        )
    unit_tests = _unit_tests(arguments)
    cases = () if unit_tests else tuple(_cases(arguments, entry_point))
    if not unit_tests and not cases:
        raise ValueError("cases is empty: give at least one case, or `unit_tests`")
    return CodeTests(entry_point, cases, unit_tests, _tolerance(arguments), _text(arguments, "checker"))


def lacks_cases(arguments: Mapping[str, Any]) -> bool:
    """Tell whether the problems stage has to make the cases from submissions first."""
    return _SUBMISSIONS in arguments and "cases" not in arguments


def _text(arguments: Mapping[str, Any], *keys: str) -> str | None:
    for key in keys:
        if (value := arguments.get(key)) is not None:
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{key} must be text and not empty, it is {_shown(value)}")
            return value.strip() if len(keys) > 1 else value
    return None


def _tolerance(arguments: Mapping[str, Any]) -> float | None:
    value = arguments.get("tolerance")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"tolerance must be a number from 0 on, it is {_shown(value)}")
    return float(value)


def _unit_tests(arguments: Mapping[str, Any]) -> str:
    keys = [key for key in ("unit_tests", "test_list", "test") if key in arguments]
    if not keys:
        return ""
    value = arguments[keys[0]]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{keys[0]} must be text or a list of texts, it is {_shown(value)}")
    before = [arguments.get("test_imports"), arguments.get("test_setup_code")]
    setup = [line for part in before for line in ([part] if isinstance(part, str) else part or [])]
    if not all(isinstance(line, str) for line in setup):
        raise ValueError("test_imports and test_setup_code must be text")
    source = "\n".join([*setup, *texts])
    if not "".join(texts).strip():
        raise ValueError(f"{keys[0]} is empty: give at least one assertion")
    return source


def _cases(arguments: Mapping[str, Any], entry_point: str | None) -> Iterator[Case]:
    rows = arguments.get("cases")
    if rows is None and "inputs" in arguments:
        rows = _columns(arguments, entry_point)
    if not isinstance(rows, list):
        raise ValueError(f"cases must be a list of cases, it is {_shown(rows)}")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"cases[{number}] must be an object, it is {_shown(row)}")
        try:
            yield _call(row) if entry_point else _run(row)
        except ValueError as fault:
            raise ValueError(f"cases[{number}].{fault}") from None


def _columns(arguments: Mapping[str, Any], entry_point: str | None) -> list[Any]:
    """Return `inputs` and `outputs` as cases."""
    inputs, outputs = arguments["inputs"], arguments.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("inputs and outputs must be two lists of the same length")
    if entry_point and all(isinstance(output, list) and len(output) == 1 for output in outputs):
        outputs = [output[0] for output in outputs]  # APPS wraps what a function returns
    return [{"input": given, "output": output} for given, output in zip(inputs, outputs, strict=True)]


def _run(row: Mapping[str, Any]) -> Case:
    given, expected = _either(row, "stdin", "input"), _either(row, "stdout", "output")
    return Case(_as_text(given[1], given[0]), _as_text(expected[1], expected[0]))


def _call(row: Mapping[str, Any]) -> Case:
    key, given = _either(row, "args", "input")
    if not isinstance(given, list):
        raise ValueError(f"{key} must be the list of arguments, it is {_shown(given)}")
    return Case(given, _either(row, "expected", "output")[1])


def _either(row: Mapping[str, Any], *keys: str) -> tuple[str, Any]:
    for key in keys:
        if key in row:
            return key, row[key]
    raise ValueError(f"{keys[0]} is missing: the case has {', '.join(map(str, row))[:60] or 'no keys'}")


def _as_text(value: Any, key: str) -> str:
    """Return text, lines of text or a number as the text that a program reads or prints."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    raise ValueError(f"{key} must be text, it is {_shown(value)}")


def _shown(value: Any) -> str:
    if value is None:
        return "missing or null"
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)[:60] if not isinstance(value, int) or abs(value) < 2**64 else "a very large number"
