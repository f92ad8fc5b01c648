"""Multiple choice: letters and option texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tasks.rewards.extraction import final_answer, fold, fold_width
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rewards.verifier import NO_ANSWER

if TYPE_CHECKING:
    from tasks.problem import Problem

_WRAPPERS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}|\$|\*\*|`")
_LEAD = re.compile(
    r"^(?:the )?(?:correct )?(?:answer|option|choice|答案|选项|选)\s*(?:is|是|为)?\s*[:：]?\s*", re.I
)
_LETTER = re.compile(r"^[(\[]?\s*([A-Za-z])\s*[)\]]?\s*(?:[.:,)]\s*|\s+|$)(.*)$", re.DOTALL)


def judge(problem: Problem, completion: str) -> Judgement:
    answer = final_answer(completion)
    if answer is None:
        return NO_ANSWER
    options = problem.verifier_args.get("options", {})
    return Judgement(judge_choice(problem.answer, options, answer), answer)


def judge_choice(gold: str, options: Mapping[str, str], answer: str) -> Verdict:
    """`B`, `(b)`, `B. 12`, `\\text{B}`, `选项B` or the text of an option that no other option shares.

    A letter that comes with the text of another option is unparseable.
    """
    chosen = choose(options, answer)
    if chosen is None:
        return Verdict.unparseable
    return Verdict.correct if chosen == gold.strip().upper() else Verdict.wrong


def choose(options: Mapping[str, str], answer: str) -> str | None:
    """The letter that an answer means; None where it is not clear."""
    bare = fold_width(_WRAPPERS.sub(r"\1", answer)).strip()
    bare = _LEAD.sub("", bare).strip()
    by_text = [letter for letter, text in options.items() if fold(text) == fold(bare)]
    match = _LETTER.match(bare)
    letters = {letter.upper() for letter in options}
    if match and match[1].upper() in letters:
        letter, rest = match[1].upper(), fold(match[2])
        if not rest or rest == fold(options.get(letter, "")):
            return letter
    return by_text[0].upper() if len(by_text) == 1 else None
