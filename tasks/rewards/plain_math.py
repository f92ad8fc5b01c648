r"""Math answers that need no computer algebra: plain integers, fractions and decimals in one form or another.

`decide` compares them in microseconds, in the process that trains, or returns None where the answers have
to be read in
full (`tasks.rewards.verifiers.math`). `screen` refuses what no judge should be given.
"""

from __future__ import annotations

import re
from fractions import Fraction

from tasks.rewards.extraction import fold_width

MAX_ANSWER = 2_000
"""Characters; a final answer that is longer is not read."""
MAX_NESTING = 40
"""Brackets within brackets."""

_PLAIN = re.compile(
    r"\$?\s*(?P<sign>[+-]?)\s*(?:"
    r"(?P<whole>\d{1,300})(?:\.(?P<decimals>\d{1,100}))?"
    r"|(?P<top>\d{1,100})/(?P<bottom>\d{1,100})"
    r"|\\[dt]?frac\s*\{(?P<above>\d{1,100})\}\s*\{(?P<below>\d{1,100})\}"
    r")\s*\.?\s*\$?",
    re.ASCII,
)
_RAISED = r"(?:\^|(?<=[\w)}\]])\*\*(?=[\w({\\+-]))"  # stars around bold words are no power
_EXPONENT = re.compile(rf"{_RAISED}[\s{{(]*-?(\d+)")
_TOWER = re.compile(rf"{_RAISED}[^,;=]{{0,12}}?{_RAISED}[^,;=]{{0,12}}?{_RAISED}")
_FACTORIAL = re.compile(r"(\d{4,}|[)}\]])\s*!")
_SIX_PLACES = 6
"""A decimal with so many places may stand for a value that it is rounded from: the judge decides."""


def normalise(text: str) -> str:
    """ASCII width, without white space around."""
    return text.strip() if text.isascii() else fold_width(text).strip()


def decide(gold: str, answer: str) -> bool | None:
    """Whether two normalised answers are equal, where both are plain numbers or the same text; else None."""
    if gold == answer:
        return True
    a, b = _number(gold), _number(answer)
    if a is None or b is None:
        return None
    (value, places), (other, other_places) = a, b
    if value == other:
        return True
    return None if max(places, other_places) >= _SIX_PLACES else False


def screen(text: str) -> str | None:
    """Why an answer is refused before sympy sees it; None where it may pass."""
    if len(text) > MAX_ANSWER:
        return f"longer than {MAX_ANSWER} characters"
    if nesting(text) > MAX_NESTING:
        return f"brackets nested more than {MAX_NESTING} deep"
    if any(len(digits) > 4 for digits in _EXPONENT.findall(text)) or _TOWER.search(text):
        return "an exponent too large to work out"
    if (match := _FACTORIAL.search(text)) and (match[1].isdigit() or "^" in text or "**" in text):
        return "a factorial too large to work out"
    return None


def nesting(text: str) -> int:
    """The largest number of brackets within brackets."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(0, depth - 1)
    return deepest


def _number(text: str) -> tuple[Fraction | int, int] | None:
    """The value of a plain number, and how many decimals it is written with."""
    match = _PLAIN.fullmatch(text)
    if not match or (text[-1] == "$" != text[0]):
        return None
    sign, whole, decimals, top, bottom, above, below = match.groups()
    if whole is not None and decimals is None:
        return int(sign + whole), 0
    if whole is not None:
        return Fraction(f"{sign}{whole}.{decimals}"), len(decimals)
    top, bottom = top or above, bottom or below
    return (Fraction(int(sign + top), int(bottom)), 0) if int(bottom) else None
