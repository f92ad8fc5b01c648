"""What an isolated process does with one request: ask a verifier, or rewrite a problem's unit tests.

These functions read text that a model or a stranger's problem file wrote, with libraries that were not made
for that. They run only in the isolated processes of `tasks.rewards.worker`.
"""

from __future__ import annotations

from typing import Any

from tasks.rewards.unit_tests import UnitTestError, as_calls
from tasks.rewards.verdict import Verdict
from tasks.rewards.verifier import one_line, verifiers

REPLIED, TIMED_OUT, LOST, FAILED, DONE = b"R", b"T", b"L", b"F", b"D"
"""First byte of a frame from a keeper (`tasks.rewards.worker`): a judge's reply; no reply in time; the judge
ended or wrote something else; the keeper could not do it; a request to the keeper itself is done."""
OUT_OF_MEMORY = "out of memory"
UNIT_TESTS = "unit_tests"
"""The one operation that is no verifier's name."""


def lasting(operation: str) -> bool:
    """Whether one isolated process may serve many requests of this operation."""
    return bool(getattr(verifiers().get(operation), "LASTING", False))


def rewrite_unit_tests(tests: str) -> dict[str, Any]:
    """Return the rewritten tests and their cases, or {"fault"}: why they cannot be rewritten."""
    try:
        return as_calls(tests)
    except UnitTestError as fault:
        return {"fault": str(fault)}
    except (RecursionError, MemoryError):
        return {"fault": "they are nested too deeply or too long"}


def answer_request(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one request; whatever the libraries raise becomes an `error` verdict that names it."""
    try:
        if operation == UNIT_TESTS:
            return rewrite_unit_tests(**arguments)
        verdict, detail = verifiers()[operation].decide(**arguments)
    except MemoryError:
        verdict, detail = Verdict.timeout, OUT_OF_MEMORY
    except Exception as failure:  # noqa: BLE001 - third-party scorers raise anything; it is reported, not hidden
        verdict, detail = Verdict.error, one_line(failure)
    return {"verdict": verdict.value, "detail": detail}
