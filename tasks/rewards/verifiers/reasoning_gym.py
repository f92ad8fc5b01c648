"""reasoning-gym's own scorers, in an isolated process: full marks are correct, anything less is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tasks.rewards import evaluated
from tasks.rewards.extraction import final_answer
from tasks.rewards.phrases import Unreadable, phrase
from tasks.rewards.plain_math import MAX_ANSWER
from tasks.rewards.tokens import tokens, without_emphasis
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rewards.verifier import NO_ANSWER, Deferred, Reply, one_line

if TYPE_CHECKING:
    from tasks.problem import Problem


def fault(problem: Problem) -> str | None:
    """Why no answer to the problem can be judged, beginning with the key; None if one can."""
    args = problem.verifier_args
    if not isinstance(args.get("dataset"), str) or not isinstance(args.get("entry"), dict):
        return "verifier_args must have `dataset` (text) and `entry` (the stored item)"
    return None


def judge(problem: Problem, completion: str) -> Judgement | Deferred:
    answer = final_answer(completion)
    if answer is None:
        return NO_ANSWER
    args = problem.verifier_args
    arguments = {"dataset": args["dataset"], "entry": args["entry"], "answer": answer}
    return Deferred("reasoning_gym", answer, arguments, prepare=args["dataset"])


# ---- in the isolated process ---------------------------------------------------------------------

Scorer = Callable[[str, dict[str, Any]], float]

scorers: dict[str, Scorer] = {}
"""Scorers of the data sets that were prepared so far, by name."""
_versions: dict[str, str] = {}


def load() -> None:
    """Import reasoning-gym and sympy, and guard what they evaluate (`tasks.rewards.evaluated`)."""
    import reasoning_gym  # noqa: F401
    import sympy  # noqa: F401

    _versions["reasoning_gym"] = version("reasoning-gym")  # its `__version__` is that of another release
    evaluated.guard_sympy()
    evaluated.guard_reasoning_gym()


def prepare(dataset: str) -> None:
    """Make the scorer of a data set, which may read that data set's files. Raises what reasoning-gym does."""
    import reasoning_gym

    if dataset not in scorers:
        scorers[dataset] = reasoning_gym.get_score_answer_fn(dataset)
        evaluated.guard_reasoning_gym()


def decide(dataset: str, entry: dict[str, Any], answer: str) -> Reply:
    """Score with reasoning-gym's own scorer: full marks are correct, anything less is wrong.

    The scorer sees the answer as it is first, and where that has no full marks, without what only marks it
    (`$45$`, `**45**`, `x = 45`, `45.`).

    An answer that the scorer must not see is unparseable; a stored problem that it must not see is an error.
    """
    if reason := evaluated.stored_refusal(dataset, entry):
        return Verdict.error, f"the stored problem of {dataset}: {reason}: fix its verifier_args.entry"
    if reason := evaluated.refusal(dataset, answer, _versions["reasoning_gym"]):
        reply: Reply = (Verdict.unparseable, reason)
    else:
        reply = _score(dataset, entry, answer)
    for form in _forms(answer) if reply[0] is not Verdict.correct else ():
        if not evaluated.refusal(dataset, form, _versions["reasoning_gym"]):
            found = _score(dataset, entry, form)
            reply = found if found[0] is Verdict.correct else reply
    return reply


def _score(dataset: str, entry: dict[str, Any], answer: str) -> Reply:
    try:
        score = scorers[dataset](answer, entry)
    except MemoryError:
        raise
    except Exception as failure:  # noqa: BLE001 - scorers raise anything
        scorers[dataset](str(entry["answer"]), entry)  # raises where the problem itself is at fault
        return Verdict.wrong, one_line(failure)
    return (Verdict.correct if score >= 1.0 else Verdict.wrong), f"score {score:.3g}"


def _forms(answer: str) -> list[str]:
    """The answer without emphasis, marks and a full stop; and the number alone where it is one in a
    phrase."""
    if len(answer) > MAX_ANSWER:
        return []
    bare = without_emphasis(answer).strip("`$ \n").removesuffix(".").strip("`$ \n")
    forms = [bare.removeprefix(r"\(").removesuffix(r"\)").strip()]
    try:
        texts = [token.text for token in phrase(tokens(answer), frozenset()).tokens]
    except Unreadable:
        texts = []
    number = "".join(texts[2:] if texts[1:2] == ["="] and texts[0].isalpha() else texts)
    if re.fullmatch(r"-?\d+(?:\.\d+)?", number):
        forms += [number, re.sub(r"\.0+$", "", number)]
    return [form for form in dict.fromkeys(forms) if form and form != answer]
