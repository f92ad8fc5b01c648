"""Exact text: equal after case, width and white space are folded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.rewards.extraction import final_answer, fold
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rewards.verifier import NO_ANSWER

if TYPE_CHECKING:
    from tasks.problem import Problem


def judge(problem: Problem, completion: str) -> Judgement:
    answer = final_answer(completion)
    if answer is None:
        return NO_ANSWER
    equal = fold(problem.answer) == fold(answer)
    return Judgement(Verdict.correct if equal else Verdict.wrong, answer)
