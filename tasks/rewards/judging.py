"""What an isolated process does with one request: ask a verifier.

These functions read text that a model or a stranger's problem file wrote, with libraries that were not made
for that. They run only in the isolated processes of `tasks.rewards.worker`.
"""

from __future__ import annotations

from typing import Any

from tasks.rewards.verdict import Verdict
from tasks.rewards.verifier import one_line, verifiers

REPLIED, TIMED_OUT, LOST, FAILED, DONE = b"R", b"T", b"L", b"F", b"D"
"""First byte of a frame from a keeper (`tasks.rewards.worker`): a judge's reply; no reply in time; the judge
ended or wrote something else; the keeper could not do it; a request to the keeper itself is done."""
OUT_OF_MEMORY = "out of memory"


def lasting(operation: str) -> bool:
    """Whether one isolated process may serve many requests of this operation."""
    return bool(getattr(verifiers().get(operation), "LASTING", False))


def answer_request(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one request; whatever the libraries raise becomes an `error` verdict that names it."""
    try:
        verdict, detail = verifiers()[operation].decide(**arguments)
    except MemoryError:
        verdict, detail = Verdict.timeout, OUT_OF_MEMORY
    except Exception as failure:  # noqa: BLE001 - third-party scorers raise anything; it is reported, not hidden
        verdict, detail = Verdict.error, one_line(failure)
    return {"verdict": verdict.value, "detail": detail}
