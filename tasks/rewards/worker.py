r"""The process in which untrusted answers meet sympy and reasoning-gym: `python -m tasks.rewards.worker`.

Reads one JSON request a frame from standard input and answers with one: {"verdict", "detail"}. Imports a
verifier's library when first told to `load` it, never torch. Every item runs under an alarm that the
kernel enforces, so a worker whose owner has died cannot outlive its item; memory is limited.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, BinaryIO

from tasks.rewards.verdict import Verdict

MEMORY = 2 * 2**30
"""Bytes of address space; sympy with its parser takes 0.3 GiB of it."""
GRACE = 1.0
"""Seconds after the owner's deadline when the kernel's alarm ends the worker."""

Reply = tuple[Verdict, str]


def judge_math(gold: str, answer: str) -> Reply:
    """math-verify's opinion of two normalised answers."""
    import math_verify

    expected = _parse_gold(gold)
    if not expected:
        return Verdict.error, f"the gold answer {gold[:60]!r} cannot be parsed: mend the problem"
    found = math_verify.parse(as_latex(answer), parsing_timeout=None)
    if math_verify.verify(expected, found, timeout_seconds=None):
        return Verdict.correct, ""
    return (Verdict.unparseable if all(isinstance(f, str) for f in found) else Verdict.wrong), ""


def as_latex(text: str) -> str:
    """As math-verify wants it: an expression in dollars, a text that marks its own expressions as it is."""
    marked = any(mark in text for mark in ("$", r"\(", r"\[", r"\boxed"))
    return text if marked else f"${' '.join(text.split())}$"


def judge_reasoning_gym(dataset: str, entry: dict[str, Any], answer: str) -> Reply:
    """reasoning-gym's own scorer: full marks are correct, anything less is wrong."""
    import reasoning_gym

    score = reasoning_gym.get_score_answer_fn(dataset)(answer, entry)
    return (Verdict.correct if score >= 1.0 else Verdict.wrong), f"score {score:.3g}"


@cache
def _parse_gold(gold: str) -> list[Any]:
    import math_verify

    return math_verify.parse(as_latex(gold), parsing_timeout=None)


def load(verifier: str) -> Reply:
    """Pay for imports and parser tables before the first item's clock starts."""
    if verifier == "math":
        return judge_math(r"\frac{1}{2}", "x^2+1")
    import reasoning_gym  # noqa: F401

    return Verdict.correct, ""


_OPERATIONS: dict[str, Callable[..., Reply]] = {
    "load": load,
    "math": judge_math,
    "reasoning_gym": judge_reasoning_gym,
}


def answer_request(request: dict[str, Any]) -> dict[str, str]:
    """Run one request; whatever the libraries raise becomes an `error` verdict that names it."""
    signal.setitimer(signal.ITIMER_REAL, request["seconds"] + GRACE)
    try:
        verdict, detail = _OPERATIONS[request["operation"]](**request["arguments"])
    except MemoryError:
        verdict, detail = Verdict.timeout, "out of memory"
    except Exception as failure:  # noqa: BLE001 - third-party scorers raise anything; it is reported, not hidden
        verdict, detail = Verdict.error, f"{type(failure).__name__}: {failure}"[:300]
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {"verdict": verdict.value, "detail": detail}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the replies
    import logging

    logging.disable(logging.WARNING)
    serve(requests, replies)


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer frames until the input ends."""
    while len(head := requests.read(4)) == 4:
        request = json.loads(requests.read(struct.unpack(">I", head)[0]))
        reply = json.dumps(answer_request(request)).encode()
        replies.write(struct.pack(">I", len(reply)) + reply)
        replies.flush()


if __name__ == "__main__":
    main()
