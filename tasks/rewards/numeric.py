"""Whether two values are equal: exactly where that can be told, else to many digits at several points.

sympy's simplification takes milliseconds to seconds, and for wrong answers most of the time. Sums, products
and
powers of integers, fractions, pi and variables are first told apart by their values at one point. Where
that does not
decide, both are evaluated to `DIGITS` digits, constants by their relative difference, however small they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from zlib import crc32

APART = 1e-7
"""Share of the largest value met on the way beyond which two values differ for certain."""
MOST_POWER = 10_000
"""A larger exponent would make more of the floats' error than that."""
DIGITS, MOST_DIGITS = 40, 400
"""Digits of an evaluation, and up to how many are worked out where nearly equal parts cancel."""
NEGLIGIBLE = 1e-25
"""Relative difference at a point below which two expressions of variables agree there."""
POINTS = 4


class NotComparable(Exception):
    """The expression has another part than those above, or no real value at the point."""


def same_expression(gold: Any, given: Any) -> bool:
    """Tell whether two sympy expressions are equal for all real values of their variables."""
    if gold == given:
        return True
    if gold.is_Rational and given.is_Rational:
        return False
    plain = plainly_equal(gold, given)
    if plain is not None:
        return plain
    if gold.is_infinite or given.is_infinite:
        return False
    if not gold.free_symbols | given.free_symbols:
        return _is_zero(gold - given, gold)
    return _agree_at_points(gold, given)


def proportional(gold: Any, given: Any) -> bool:
    """Tell whether two expressions of variables differ by a constant factor: then `= 0` has the same
    solutions."""
    if gold.free_symbols != given.free_symbols or not gold.free_symbols:
        return False
    ratios = []
    for point in _points(gold.free_symbols):
        a, b = _at(gold, point), _at(given, point)
        if a and b:
            ratios.append(a / b)
    return len(ratios) >= 3 and all(_near(ratio, ratios[0]) for ratio in ratios)


def rounded(exact: Any, decimal: Any, places: int) -> bool:
    """Tell whether `decimal` is `exact` rounded to so many decimals."""
    value = exact.evalf(DIGITS)
    return bool(value.is_real) and bool(abs(value - decimal) <= 0.5 * 10 ** -float(places) * (1 + 1e-12))


def plainly_equal(gold: Any, given: Any) -> bool | None:
    """True or False where floats and expansion tell; None where they do not."""
    try:
        (a, reach_a), (b, reach_b) = _value(gold), _value(given)
    except (NotComparable, OverflowError, ZeroDivisionError):
        return None
    if abs(a - b) > APART * max(reach_a, reach_b):
        return False
    return True if _expand(gold - given) == 0 else None


def _is_zero(difference: Any, scale: Any) -> bool:
    value = difference.evalf(15, maxn=MOST_DIGITS)
    size = 1 if scale.free_symbols else abs(scale.evalf(15)) or 1
    return bool(abs(value) <= size * 10 ** -(MOST_DIGITS // 2))


def _agree_at_points(gold: Any, given: Any) -> bool:
    compared = 0
    for point in _points(gold.free_symbols | given.free_symbols):
        a, b = _at(gold, point), _at(given, point)
        if a is None or b is None or (min(point.values()) < 0 and not (a.is_real and b.is_real)):
            continue  # a logarithm or root of a negative number has several values
        if not _near(a, b):
            return False
        compared += 1
    if compared < 2:
        return False
    difference = _expand(gold - given)
    if not difference.free_symbols:
        return _is_zero(difference, gold)
    return not difference.is_polynomial()  # an expanded polynomial that is left is not zero, however small


def _points(symbols: set[Any]) -> Iterator[Mapping[Any, Any]]:
    """Points with positive coordinates first, then some with negative ones."""
    import sympy

    for at in range(POINTS):
        sign = -1 if at >= POINTS // 2 else 1
        yield {
            s: sympy.Rational(sign * (10**6 + crc32(f"{s.name}{at}".encode()) % 10**7), 4 * 10**6)
            for s in symbols
        }


def _at(expression: Any, point: Mapping[Any, Any]) -> Any:
    value = expression.evalf(DIGITS, subs=dict(point))
    return value if value.is_number and value.is_finite else None


def _near(a: Any, b: Any) -> bool:
    return bool(abs(a - b) <= NEGLIGIBLE * max(abs(a), abs(b)))


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
    if isinstance(value, complex) or not math.isfinite(value) or (value == 0 and kind is not _heads()["Add"]):
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
