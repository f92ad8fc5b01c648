"""Math answers: plain ones are compared at once, the others are read in full in an isolated process.

An answer counts only if all of it is understood (`tokens`, `phrases`, `grammar`); then `equivalence`
compares it.
Integrals, sums and limits are left to math-verify, where nothing else stands in either answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from tasks.rewards import evaluated, plain_math
from tasks.rewards.extraction import final_answer
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rewards.verifier import NO_ANSWER, Deferred, Reply, one_line

if TYPE_CHECKING:
    from tasks.problem import Problem
    from tasks.rewards.phrases import Phrase

LASTING = True
"""sympy's caches make a process that served many answers fast, and nothing that it reads is evaluated."""


def judge(problem: Problem, completion: str) -> Judgement | Deferred:
    answer = final_answer(completion)
    if answer is None:
        return NO_ANSWER
    gold, given = _gold(problem.answer), plain_math.normalise(answer)
    if not given:
        return Judgement(Verdict.unparseable, answer, "no expression")
    if fault := _fault(gold):
        return Judgement(Verdict.error, answer, f"the gold answer {gold[:60]!r}: {fault}: fix the problem")
    plain = plain_math.decide(gold, given)
    if plain is not None:
        return Judgement(Verdict.correct if plain else Verdict.wrong, answer)
    if refusal := plain_math.screen(given):
        return Judgement(Verdict.unparseable, answer[: plain_math.MAX_ANSWER], refusal)
    return Deferred("math", answer, {"gold": gold, "answer": given})


_gold = lru_cache(maxsize=4_096)(plain_math.normalise)


@lru_cache(maxsize=4_096)
def _fault(gold: str) -> str | None:
    return (
        plain_math.screen(gold)
        if any(sign.isalnum() or sign in "∞∅√\\" for sign in gold)
        else "no expression"
    )


# ---- in the isolated process ---------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What was understood of a text."""

    phrase: Phrase | None
    node: Any
    """`tasks.rewards.grammar.Node`; None where not all of the text is understood."""
    fault: str = ""

    @property
    def written(self) -> str:
        """The expression as written, but for white space, marks and words around it."""
        return " ".join(token.text for token in self.phrase.tokens) if self.phrase else ""


def load() -> None:
    """Import what reads answers and math-verify, let them build their tables, and guard what sympy
    evaluates."""
    decide(r"\frac{1}{2}", "x^2+1")
    decide(r"\int x dx", r"\int y dy")
    decide("[0, 1]", "|x| < 1")
    evaluated.guard_sympy()


def decide(gold: str, answer: str) -> Reply:
    """Return whether two answers are the same; `unparseable` where not all of the answer is understood."""
    from tasks.rewards.equivalence import in_radians, same_answer, variables

    expected = _read_gold(gold)
    given = _read(answer, variables(expected.node))
    if expected.phrase and given.phrase:
        if not _units_agree(expected.phrase, given.phrase):
            return Verdict.wrong, "another unit"
        if not expected.phrase.tokens:
            return _yes(expected.phrase.words == given.phrase.words), ""
        if expected.written == given.written:
            return Verdict.correct, ""
    if expected.node is None or given.node is None:
        return _by_math_verify(expected, given)
    if given.phrase and expected.phrase and given.phrase.unit == "deg" and not expected.phrase.unit:
        given = replace(given, node=in_radians(given.node, expected.node))
    try:
        return _yes(same_answer(expected.node, given.node)), ""
    except MemoryError:
        raise
    except Exception as failure:  # noqa: BLE001 - the gold was read, so the answer is what it failed on
        return Verdict.unparseable, one_line(failure)


def _yes(same: bool) -> Verdict:
    return Verdict.correct if same else Verdict.wrong


@cache
def _read_gold(gold: str) -> Reading:
    return _read(gold, None)


def _read(text: str, letters: frozenset[str] | None) -> Reading:
    from tasks.rewards.grammar import read_expression
    from tasks.rewards.phrases import Unreadable, phrase
    from tasks.rewards.tokens import tokens

    found = None
    try:
        found = phrase(tokens(text), letters)
        if not found.tokens:
            return Reading(found, None, "" if found.words else "no expression")
        return Reading(found, read_expression(found.tokens))
    except Unreadable as fault:
        return Reading(found, None, str(fault))


def _units_agree(gold: Phrase, given: Phrase) -> bool:
    """A unit or noun may be missing in the answer, and stand there where the gold answer has none."""
    if gold.unit and given.unit:
        return gold.unit == given.unit
    return not (gold.nouns and given.nouns) or bool(set(gold.nouns) & set(given.nouns))


_ANALYSIS = frozenset({"int", "sum", "prod", "lim"})
_COMMANDS = _ANALYSIS | {"frac", "sqrt", "to"}
_KINDS = frozenset({"number", "letter", "function", "constant", "sign"})


def _by_math_verify(expected: Reading, given: Reading) -> Reply:
    """Let math-verify compare integrals, sums and limits, which it reads in full; nothing else is given to
    it."""
    readings = (expected, given)
    if not all(r.phrase and (r.node is not None or _is_analysis(r.phrase)) for r in readings):
        return (
            Verdict.unparseable,
            given.fault or expected.fault or "another kind of answer than the gold answer",
        )
    import math_verify

    gold, answer = (
        math_verify.parse(f"${_latex(r.phrase)}$", parsing_timeout=None) for r in readings if r.phrase
    )
    return _yes(bool(math_verify.verify(gold, answer, timeout_seconds=None))), ""


def _is_analysis(phrase: Phrase) -> bool:
    commands = {token.text for token in phrase.tokens if token.kind == "command"}
    kinds = {token.kind for token in phrase.tokens} - {"command"}
    return bool(commands & _ANALYSIS) and commands <= _COMMANDS and kinds <= _KINDS and _ends(phrase)


def _ends(phrase: Phrase) -> bool:
    return phrase.tokens[-1].text not in ("+", "-", "*", "/", "^", "_", "=")


def _latex(phrase: Phrase) -> str:
    names = {"oo": r"\infty", "pi": r"\pi"}
    return " ".join(
        names.get(t.text)
        or (
            f"\\{t.text}"
            if t.kind in ("command", "function") or (len(t.text) > 1 and t.kind == "letter")
            else t.text
        )
        for t in phrase.tokens
    )
