"""Whether two parsed expressions are plainly equal or plainly different, without simplifying them.

math-verify asks sympy to simplify the difference of two expressions, which takes milliseconds and for wrong
answers most of the time. Sums, products and powers of integers, fractions, pi and variables can be told
apart by their values at one point. What is not clear that way is left to math-verify, as is every other
kind of answer (decimals, percent, relations, sets, matrices).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any
from zlib import crc32

APART = 1e-7
"""Share of the largest value met on the way beyond which two values differ for certain."""
MOST_POWER = 10_000
"""A larger exponent would make more of the floats' error than that."""


class NotComparable(Exception):
    """The expression has another part than those above, or no real value at the point."""


def plainly_equal(gold: Any, given: Any) -> bool | None:
    """True or False exactly where math-verify would say so, None where it has to be asked."""
    if getattr(gold, "is_Symbol", True) or getattr(given, "is_Symbol", True):
        return None
    try:
        (a, reach_a), (b, reach_b) = _value(gold), _value(given)
    except (NotComparable, OverflowError, ZeroDivisionError):
        return None
    if abs(a - b) > APART * max(1.0, reach_a, reach_b):
        return False
    return True if _expand(gold - given) == 0 else None


def _value(expression: Any) -> tuple[float, float]:
    """The value at the point, and the largest absolute value of any part."""
    kind = type(expression)
    if expression.is_Rational and not expression.is_Float:
        value = expression.p / expression.q
        return value, abs(value)
    if expression.is_Symbol:
        return _coordinate(expression.name), 3.0
    if expression is _heads()["pi"]:
        return math.pi, math.pi
    parts = [_value(part) for part in expression.args]
    values, reach = [v for v, _ in parts], max((r for _, r in parts), default=0.0)
    if kind is _heads()["Add"]:
        value = math.fsum(values)
    elif kind is _heads()["Mul"]:
        value = math.prod(values)
    elif kind is _heads()["Pow"] and abs(values[1]) <= MOST_POWER:
        value = values[0] ** values[1]
    else:
        raise NotComparable
    if isinstance(value, complex) or not math.isfinite(value):
        raise NotComparable
    return value, max(reach, abs(value))


def _coordinate(name: str) -> float:
    """Between 1 and 3, a function of the name."""
    return 1.0 + 2.0 * crc32(name.encode()) / 2**32


@cache
def _heads() -> dict[str, Any]:
    import sympy

    return {name: getattr(sympy, name) for name in ("Add", "Mul", "Pow", "pi")}


def _expand(difference: Any) -> Any:
    import sympy

    return sympy.expand(difference)
