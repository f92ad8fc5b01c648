"""Comparisons of plain JSON data that a program returned with what a problem expects, outside the sandbox.

    Check   {"steps": [["len"], ["minus", 0.5], ...], "conditions": [["==", 3], ["contains", "a"], ...]}

The steps are applied to the value in turn; all conditions must hold for the result. Nothing here calls a
method of anything but str, int, float, bool, list and dict.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

Check = dict[str, Any]

TYPES: Mapping[str, type] = {
    **{"bool": bool, "int": int, "float": float, "str": str, "dict": dict, "list": list},
    "tuple": list,  # JSON has no tuples
}
NEGATED = {
    **{"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<", "in": "not in", "not in": "in"},
    **{"contains": "not contains", "not contains": "contains"},
    **{"isinstance": "not isinstance", "not isinstance": "isinstance"},
}
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    **{"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
}
_STEPS: Mapping[str, Callable[..., Any]] = {
    **{"len": len, "abs": abs, "sorted": sorted, "round": round},
    "minus": lambda value, literal: value - literal,
    "from": lambda value, literal: literal - value,
}


def holds(check: Check, value: Any) -> bool:
    """Tell whether all conditions of a check hold for a value; False where a step does not apply to it."""
    try:
        for name, *arguments in check["steps"]:
            value = _STEPS[name](value, *arguments)
        return all(_condition(name, literal, value) for name, literal in check["conditions"])
    except (TypeError, ValueError, ArithmeticError):
        return False


def same_value(expected: Any, value: Any) -> bool:
    """Equal as JSON data; floats to nine digits; a bool is never a number."""
    if isinstance(expected, bool) or isinstance(value, bool):
        return expected is value
    if isinstance(expected, float) or isinstance(value, float):
        numbers = isinstance(expected, int | float) and isinstance(value, int | float)
        return numbers and _close(expected, value)
    if isinstance(expected, list | tuple):
        return (
            isinstance(value, list)
            and len(expected) == len(value)
            and all(same_value(e, v) for e, v in zip(expected, value, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and expected.keys() == value.keys()
            and all(same_value(item, value[key]) for key, item in expected.items())
        )
    return type(expected) is type(value) and expected == value


def _condition(name: str, literal: Any, value: Any) -> bool:
    match name:
        case "==":
            return same_value(literal, value)
        case "in":
            return _contains(literal, value)
        case "contains":
            return _contains(value, literal)
        case "isinstance":
            return isinstance(value, tuple(TYPES[kind] for kind in literal))
        case "!=" | "not in" | "not contains" | "not isinstance":
            return not _condition(NEGATED[name], literal, value)
    return _ORDER[name](value, literal)


def _contains(container: Any, item: Any) -> bool:
    """Raises TypeError where nothing can be in `container`, as Python does."""
    if isinstance(container, str):
        return item in container
    if isinstance(container, list | dict):
        return any(same_value(member, item) for member in container)
    raise TypeError


def _close(a: float, b: float) -> bool:
    try:
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    except OverflowError:
        return False
