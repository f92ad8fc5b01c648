"""What is wrong with a problem, in one sentence, before anything is computed with it.

A row that no verifier can judge would otherwise be an `error` in every batch, or be read by no stage.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.problem import DOMAINS, LANGUAGES, SPLITS, Problem
from tasks.rewards.cases import lacks_cases
from tasks.rewards.verifier import NO_RULE, fault, verifiers

if TYPE_CHECKING:
    import pyarrow as pa

_VISIBLE = r"[!-~\p{Han}]"
_ANSWER_OPTIONAL = ("code", "reasoning_gym", "instructions", NO_RULE)
"""Verifiers that judge without it: they have cases, an entry or instructions; general prompts no rule."""


def allowed_values() -> dict[str, Sequence[str]]:
    """Column -> the values that it may hold."""
    return {
        "domain": DOMAINS,
        "language": LANGUAGES,
        "verifier": (*verifiers(), NO_RULE),
        "split": SPLITS,
    }


def objection(problem: Problem) -> str | None:
    """Why a problem cannot be used, in one sentence that begins with the column; None if it can."""
    for column, allowed in allowed_values().items():
        value = getattr(problem, column)
        if value not in allowed:
            return not_allowed(column, value, allowed)
    for column in ("id", "prompt"):
        if not getattr(problem, column).strip():
            return f"{column} is empty: give it a text"
    if not isinstance(problem.verifier_args, Mapping):
        return "verifier_args must be a JSON object"
    if problem.verifier not in _ANSWER_OPTIONAL and not problem.answer.strip():
        return f"answer is empty: verifier {problem.verifier} compares with it"
    if problem.verifier in ("math", "choice") and problem.answer.strip() in ("None", "nan", "null", "NaN"):
        return f"answer is {problem.answer.strip()!r}, which is no answer: give the value, or remove the row"
    if problem.verifier == "code" and lacks_cases(problem.verifier_args):
        return _submissions_fault(problem.verifier_args)
    return fault(problem)


def objections(table: pa.Table) -> Iterator[tuple[int, str, str]]:
    """Yield (place, id, objection) of the rows of a `problems` table that cannot be used, in order.

    Rows of the plain kind, whose columns alone say that they are usable, are not made into problems.

    Raises:
        ValueError: a cell is not JSON.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from tasks.problem import from_table

    answer = table["answer"]
    usual = pc.and_(
        pc.is_in(table["verifier"], pa.array(["math", "exact"])), pc.equal(table["verifier_args"], "{}")
    )
    for column, allowed in allowed_values().items():
        usual = pc.and_(usual, pc.is_in(table[column], pa.array(allowed)))
    for column in ("id", "prompt", "answer"):
        usual = pc.and_(usual, pc.match_substring_regex(table[column], _VISIBLE))
    usual = pc.and_(usual, pc.match_substring_regex(answer, r"\d"))  # not `None`
    places = pc.indices_nonzero(pc.invert(usual)).to_pylist()
    for place, problem in zip(places, from_table(table.take(pa.array(places, pa.int64()))), strict=True):
        if reason := objection(problem):
            yield place, problem.id, reason


def not_allowed(column: str, value: object, allowed: Sequence[str]) -> str:
    """Return the sentence about a value that a column must not hold."""
    close = difflib.get_close_matches(str(value).lower(), allowed, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{column} is {str(value)[:60]!r}, it must be one of {', '.join(allowed)}{hint}"


def _submissions_fault(arguments: Mapping[str, Any]) -> str | None:
    submissions = arguments["submissions"]
    if not isinstance(submissions, Mapping):
        return "verifier_args.submissions must be an object with lists of programs, `right` and `wrong`"
    programs = {f"submissions.{kind}": submissions.get(kind, []) for kind in ("right", "wrong")}
    for key, value in {**programs, "generators": arguments.get("generators", [])}.items():
        if not isinstance(value, list) or not all(isinstance(program, str) for program in value):
            return f"verifier_args.{key} must be a list of programs"
    return None
