"""Questions that are asked twice, and reference solutions that fail their own tests.

A set with each question a hundred times is no larger than one without, but is trained on and evaluated as if
it were; of two answers to one question at least one is wrong; and tests that the reference solution fails
reward nothing that is right.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence

from tasks.problem import Problem
from tasks.rewards.extraction import fold
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict
from tasks.sandbox import WeakSandboxError

Kept = tuple[list[Problem], list[dict[str, str]]]
"""The problems that stay, and rows of the table `rejected`."""
ONE_ANSWER = ("math", "choice", "exact")
"""Verifiers by which two answers to a question contradict each other unless they are the same."""
_SECONDS = 10.0
"""For a reference solution. Long, because which problems stay must not depend on the load."""


def without_repeats(problems: Sequence[Problem]) -> Kept:
    """Keep one of the problems of a split that ask the same question; none if their answers differ."""
    groups: dict[tuple[str, str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[_question(problem)].append(problem)
    rejected: list[dict[str, str]] = []
    dropped: set[int] = set()
    for first, *others in (group for group in groups.values() if len(group) > 1):
        differing = [other for other in others if not _same_answer(first, other)]
        if differing:
            other = differing[0]
            detail = f"answers {first.answer[:60]!r} ({first.id}) and {other.answer[:60]!r} ({other.id})"
            rejected += [_row(problem, "conflicting-answers", detail) for problem in (first, *others)]
        else:
            rejected += [_row(other, "duplicate", f"asks what {first.id} asks") for other in others]
        dropped |= {id(problem) for problem in ((first, *others) if differing else others)}
    return [problem for problem in problems if id(problem) not in dropped], rejected


def without_failing_references(problems: Sequence[Problem]) -> Kept:
    """Drop the code problems whose answer, a reference solution, does not pass the problem's own tests."""
    tried = [p for p in problems if p.verifier == "code" and p.answer.strip()]
    if not tried:
        return list(problems), []
    try:
        with VerifierPool(workers=2, seconds_per_item=_SECONDS) as pool:
            judged = pool.verify(
                tried, [f"<think></think><answer>{_fenced(p.answer)}</answer>" for p in tried]
            )
    except WeakSandboxError as weak:
        logging.getLogger(__name__).warning("%d reference solutions were not tried: %s", len(tried), weak)
        return list(problems), []
    failed = {
        p.id: _row(p, "reference-fails", f"{j.verdict.value}: {j.detail}")
        for p, j in zip(tried, judged, strict=True)
        if j is not None and j.verdict != Verdict.correct
    }
    return [p for p in problems if p.id not in failed], list(failed.values())


def _question(problem: Problem) -> tuple[str, str, str]:
    options = problem.verifier_args.get("options") if problem.verifier == "choice" else None
    return problem.split, " ".join(problem.prompt.split()), json.dumps(options, sort_keys=True)


def _same_answer(first: Problem, other: Problem) -> bool:
    """Tell whether two answers to one question are the same, also where one is 1/2 and the other 0.5."""
    if first.verifier not in ONE_ANSWER or fold(first.answer) == fold(other.answer):
        return True
    with VerifierPool(workers=1) as pool:
        (judgement,) = pool.verify([first], [f"<think></think><answer>{other.answer}</answer>"])
    return judgement is not None and judgement.verdict == Verdict.correct


def _fenced(program: str) -> str:
    """Return a program in a fence that it does not hold itself; one that comes in a fence as it is."""
    if program.lstrip().startswith(("```", "~~~")):
        return program
    fence = "`" * 3
    while fence in program:
        fence += "`"
    return f"{fence}python\n{program}\n{fence}"


def _row(problem: Problem, reason: str, detail: str) -> dict[str, str]:
    return {"problem_id": problem.id, "text": problem.prompt, "reason": reason, "detail": detail}
