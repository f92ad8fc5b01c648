r"""Math answers that need no computer algebra: plain integers, fractions, decimals, identical text.

`decide` returns exactly what math-verify 0.9 would, in microseconds, or None where only math-verify can
tell; `normalise` and `screen` are what every math answer goes through before either of them.
"""

from __future__ import annotations

import re
from fractions import Fraction

from tasks.rewards.extraction import fold_width

MAX_ANSWER = 2_000
"""Characters; a final answer that is longer is not read."""
MAX_NESTING = 40
"""Brackets within brackets."""

_INTEGER = re.compile(r"[+-]?\d{1,300}")
_DECIMAL = re.compile(r"[+-]?\d{1,9}\.\d{1,6}")
_FRACTION = re.compile(r"([+-]?)(?:(\d{1,100})/(\d{1,100})|\\[dt]?frac\s*\{(\d{1,100})\}\s*\{(\d{1,100})\})")
_IDENTICAL = re.compile(r"[0-9A-Za-z+\-*/^().\\{}_ ]*[0-9A-Za-z][0-9A-Za-z+\-*/^().\\{}_ ]*")
_CHINESE_ENDS = re.compile(r"^[\u3400-\u9fff\s:]+|[\u3400-\u9fff\s]+$")
_THIN_SPACE = re.compile(r"(?<=\d)\\[,!;](?=\d{3}(?!\d))")
_EXPONENT = re.compile(r"(?:\^|\*\*)[\s{(]*-?(\d+)")
_TOWER = re.compile(r"(?:\^|\*\*)[^,;=]{0,12}?(?:\^|\*\*)[^,;=]{0,12}?(?:\^|\*\*)")
_FACTORIAL = re.compile(r"(\d{4,}|[)}\]])\s*!")
_UNFINISHED = re.compile(r"(?<!\^)[+\-*/=]\s*$|\^\s*$")
"""`5 +`: math-verify reads the 5 and calls it equal to 5. `\\mathbb{R}^+` is finished."""
_CLOSE_TO = 1e-5
"""Decimals nearer than this are math-verify's to decide (it rounds to six places)."""


def normalise(text: str) -> str:
    """ASCII width; Chinese words around the expression, a closing stop, a leading dollar sign (money), thin
    spaces between thousands and one pair of `$` removed."""
    if len(text) > MAX_ANSWER:
        return text  # `screen` refuses it; what follows is quadratic
    text = _CHINESE_ENDS.sub("", fold_width(text)).strip()
    text = _THIN_SPACE.sub("", text.removesuffix(".").removeprefix(r"\$")).strip()
    if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def decide(gold: str, answer: str) -> bool | None:
    """Whether two normalised answers are equal, where that is plain; None where it is not."""
    if gold == answer and _IDENTICAL.fullmatch(gold) and _balanced(gold):
        return True
    a, b = _number(gold), _number(answer)
    if a is None or b is None:
        return None
    if a == b:
        return True
    exact = "." not in gold and "." not in answer
    return False if exact or abs(a - b) > _CLOSE_TO else None


def screen(text: str) -> str | None:
    """Why an answer is refused before sympy sees it; None where it may pass."""
    if len(text) > MAX_ANSWER:
        return f"longer than {MAX_ANSWER} characters"
    if _nesting(text) > MAX_NESTING:
        return f"brackets nested more than {MAX_NESTING} deep"
    if any(len(digits) > 4 for digits in _EXPONENT.findall(text)) or _TOWER.search(text):
        return "an exponent too large to work out"
    if _UNFINISHED.search(text):
        return "an unfinished expression"
    if (match := _FACTORIAL.search(text)) and (match[1].isdigit() or "^" in text or "**" in text):
        return "a factorial too large to work out"
    return None


def _number(text: str) -> Fraction | None:
    if _INTEGER.fullmatch(text) or _DECIMAL.fullmatch(text):
        return Fraction(text)
    if not (match := _FRACTION.fullmatch(text)):
        return None
    sign, *parts = match.groups()
    numerator, denominator = (int(part) for part in parts if part is not None)
    return Fraction(-numerator if sign == "-" else numerator, denominator) if denominator else None


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(0, depth - 1)
    return deepest


def _balanced(text: str) -> bool:
    return all(text.count(left) == text.count(right) for left, right in (("(", ")"), ("{", "}")))
