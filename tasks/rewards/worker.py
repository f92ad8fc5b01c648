r"""The process in which untrusted answers meet sympy and reasoning-gym: `python -m tasks.rewards.worker`.

Reads one JSON request a frame from standard input and answers with one: {"verdict", "detail"}. Two processes:
a keeper that imports a verifier's library when first told to `load` it (never torch), and the judge that it
forks. The kernel's alarm kills the judge when an item's time is up; the keeper says so and forks the next
one, warm, in milliseconds. Memory is limited, and a judge is replaced after `ITEMS` items.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, BinaryIO

from tasks.rewards.numeric import plainly_equal
from tasks.rewards.sandbox import isolation
from tasks.rewards.verdict import Verdict

MEMORY = 512 * 2**20
"""Bytes of private memory for one process; sympy with its parser takes a fifth of it."""
ITEMS = 5_000
"""A judge is replaced after so many, because sympy's caches grow."""
OUT_OF_MEMORY = "out of memory"
_TIRED = 3
_LOADS = {4: "math", 5: "reasoning_gym"}
"""Exit statuses of a judge, beside 0 for the end of the input."""

Reply = tuple[Verdict, str]


def judge_math(gold: str, answer: str) -> Reply:
    """math-verify's opinion of two normalised answers."""
    import math_verify

    expected = _parse_gold(gold)
    if not expected:
        return Verdict.error, f"the gold answer {gold[:60]!r} cannot be parsed: mend the problem"
    found = math_verify.parse(as_latex(answer), parsing_timeout=None)
    plain = plainly_equal(expected[0], found[0]) if found else None
    if math_verify.verify(expected, found, timeout_seconds=None) if plain is None else plain:
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
    try:
        verdict, detail = _OPERATIONS[request["operation"]](**request["arguments"])
    except MemoryError:
        verdict, detail = Verdict.timeout, OUT_OF_MEMORY
    except Exception as failure:  # noqa: BLE001 - third-party scorers raise anything; it is reported, not hidden
        verdict, detail = Verdict.error, f"{type(failure).__name__}: {failure}"[:300]
    return {"verdict": verdict.value, "detail": detail}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the replies
    import logging

    logging.disable(logging.WARNING)
    keep(requests, replies)


def keep(requests: BinaryIO, replies: BinaryIO) -> None:
    """Fork a judge, warm with what is loaded so far, as often as one ends for a known reason."""
    working = mmap.mmap(-1, 1)  # shared with the judge: 1 while it judges an item, between the two frames
    while True:
        judge = os.fork()
        if judge == 0:
            isolation.die_with_parent()
            os._exit(serve(requests, replies, working))
        status = os.waitstatus_to_exitcode(os.waitpid(judge, 0)[1])
        if status == -signal.SIGALRM and working[0]:
            _send(replies, {"verdict": Verdict.timeout.value, "detail": "not decided in time"})
        elif status in _LOADS:
            _send(replies, answer_request({"operation": "load", "arguments": {"verifier": _LOADS[status]}}))
            gc.freeze()
        elif status != _TIRED:
            return
        working[0] = 0


def serve(requests: BinaryIO, replies: BinaryIO, working: mmap.mmap) -> int:
    """Answer frames until the input ends, a library has to be loaded, or it is time for a fresh process."""
    for _ in range(ITEMS):
        head = requests.read(4)
        if len(head) < 4:
            return 0
        request = json.loads(requests.read(struct.unpack(">I", head)[0]))
        if request["operation"] == "load":
            return next(status for status, name in _LOADS.items() if name == request["arguments"]["verifier"])
        working[0] = 1
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        reply = answer_request(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        working[0] = 0
        _send(replies, reply)
        if reply["detail"] == OUT_OF_MEMORY:
            break
    return _TIRED


def _send(replies: BinaryIO, reply: dict[str, str]) -> None:
    data = json.dumps(reply).encode()
    replies.write(struct.pack(">I", len(data)) + data)
    replies.flush()


if __name__ == "__main__":
    main()
