"""From a problem and a completion to a judgement, or to the work that a judgement needs.

Everything instant is decided here, in the caller's process: no answer, choices, exact text, plain numbers,
answers that are refused unread. The rest becomes a `Deferred` for `tasks.rewards.pool`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tasks.rewards import plain_math, text_rules
from tasks.rewards.extraction import final_answer, final_program
from tasks.rewards.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from tasks.problem import Problem


@dataclass(frozen=True)
class Deferred:
    """What a worker (`math`, `reasoning_gym`) or the sandbox (`code`) has to decide."""

    operation: Literal["math", "reasoning_gym", "code"]
    extracted: str
    arguments: dict[str, Any]


def has_rule(problem: Problem) -> bool:
    """Whether a rule can judge its answers; others need a judge or a reward model."""
    return problem.verifier in _RULES


def judge_or_defer(problem: Problem, completion: str) -> Judgement | Deferred | None:
    """None where no rule applies to the problem."""
    if not has_rule(problem):
        return None
    answer = final_program(completion) if problem.verifier == "code" else final_answer(completion)
    if answer is None:
        return Judgement(Verdict.unparseable, None, "no final answer after the thinking")
    return _RULES[problem.verifier](problem, answer)


def _math(problem: Problem, answer: str) -> Judgement | Deferred:
    gold, given = plain_math.normalise(problem.answer), plain_math.normalise(answer)
    if not given:
        return Judgement(Verdict.unparseable, answer, "no expression")
    if fault := _fault(gold):
        return Judgement(Verdict.error, answer, f"the gold answer {gold[:60]!r}: {fault}; mend the problem")
    plain = plain_math.decide(gold, given)
    if plain is not None:
        return Judgement(Verdict.correct if plain else Verdict.wrong, answer)
    if refusal := plain_math.screen(given):
        return Judgement(Verdict.unparseable, answer[: plain_math.MAX_ANSWER], refusal)
    return Deferred("math", answer, {"gold": gold, "answer": given})


def _fault(gold: str) -> str | None:
    return plain_math.screen(gold) if gold.strip(".") else "no expression"


def _choice(problem: Problem, answer: str) -> Judgement:
    options = problem.verifier_args.get("options", {})
    return Judgement(text_rules.judge_choice(problem.answer, options, answer), answer)


def _exact(problem: Problem, answer: str) -> Judgement:
    return Judgement(text_rules.judge_exact(problem.answer, answer), answer)


def _reasoning_gym(problem: Problem, answer: str) -> Deferred:
    args = problem.verifier_args
    arguments = {"dataset": args["dataset"], "entry": args["entry"], "answer": answer}
    return Deferred("reasoning_gym", answer, arguments)


def _code(problem: Problem, answer: str) -> Deferred:
    return Deferred("code", answer, problem.verifier_args)


_RULES: dict[str, Callable[[Problem, str], Judgement | Deferred]] = {
    "math": _math,
    "choice": _choice,
    "exact": _exact,
    "reasoning_gym": _reasoning_gym,
    "code": _code,
}
