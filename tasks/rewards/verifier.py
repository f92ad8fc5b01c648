"""What a verifier is: from a problem and a completion to a judgement. Each is a file of `verifiers/`.

The file is named as problems name it (`verifier: math`) and has

    judge(problem, completion)   what can be decided at once, in the caller's process, by string code alone;
                                 else a `Deferred`, for which it has one of

    decide(**arguments)          a verdict and its reason, in an isolated process (`tasks.rewards.worker`)
    run(bench, deferred)         a judgement by running a program in the sandbox

and, beside `decide`, what it needs: `load()` imports its library and `prepare(what)` reads what one kind of
problem needs, both before an item's time begins; `LASTING = True` lets one isolated process serve many
requests, which is for verifiers that never evaluate what they read. A verifier that needs more of a problem
than an answer has `fault(problem)`: why no answer to it can be judged, or None. `BY_RULE = False` says that
no rule applies and `judge` returns None: those problems need a language model with a reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from tasks.registry import modules
from tasks.rewards.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from tasks.problem import Problem
    from tasks.sandbox import Sandbox

Reply = tuple[Verdict, str]
"""A verdict, and why where the verdict alone does not say it."""

NO_RULE = "rubric"
"""The verifier of problems that only reward models score."""
NO_ANSWER = Judgement(Verdict.unparseable, None, "no final answer after the thinking")


@dataclass(frozen=True)
class Deferred:
    """What `decide` or `run` of a verifier has to judge."""

    verifier: str
    extracted: str
    """The final answer."""
    arguments: dict[str, Any]
    """Plain JSON values."""
    prepare: str = ""
    """What `prepare` is given first; nothing is prepared where it is empty."""


class CheckFailed(Exception):
    """The checking itself failed, whatever the answer: the message says why."""


class Bench(Protocol):
    """What `run` may use."""

    sandbox: Sandbox
    seconds: float
    """Of one run of the program."""
    every_case: bool
    """Run every test case, so that the judgement carries the share that passed."""


def one_line(failure: Exception) -> str:
    """What a library raised, as the reason of a verdict."""
    return f"{type(failure).__name__}: {failure}"[:300]


def verifiers() -> dict[str, ModuleType]:
    """Every verifier by name."""
    return modules("tasks.rewards.verifiers")


def has_rule(problem: Problem) -> bool:
    """Whether a rule can judge its answers; others need a judge or a reward model."""
    return getattr(verifiers().get(problem.verifier), "BY_RULE", problem.verifier in verifiers())


def fault(problem: Problem) -> str | None:
    """Why no answer to the problem can be judged, one sentence that begins with the key; None if one can."""
    verifier = verifiers().get(problem.verifier)
    if verifier is None and problem.verifier != NO_RULE:
        return f"verifier {str(problem.verifier)[:60]!r} must be one of {', '.join([*verifiers(), NO_RULE])}"
    check = getattr(verifier, "fault", None)
    found: str | None = check(problem) if check else None
    return found


def judge_or_defer(problem: Problem, completion: str) -> Judgement | Deferred | None:
    """None where no rule applies to the problem."""
    verifier = verifiers().get(problem.verifier)
    found: Judgement | Deferred | None = verifier.judge(problem, completion) if verifier else None
    return found
