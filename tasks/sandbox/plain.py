"""Copies a value as plain data, by the built-in types' own methods, and compares plain data.

Nothing that a class of the program defines is called (`__eq__`, `__len__`, `__iter__`, a false `__class__`).
A namedtuple, an IntEnum or a Counter becomes what it is made of. Standard library only: the processes of the
sandbox import this file too.
"""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> Any:
    """Return `value` with every str, int, float, list, tuple and dict in it as exactly that type.

    Raises TypeError for what is not JSON data, RecursionError for what is nested too deeply.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__index__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, list):
        return [plain(item) for item in list.__iter__(value)]
    if issubclass(kind, tuple):
        return [plain(item) for item in tuple.__iter__(value)]
    if issubclass(kind, dict):
        return {_plain_key(key): plain(item) for key, item in dict.items(value)}
    raise TypeError(f"{kind.__name__} is not JSON data")


def _plain_key(key: Any) -> Any:
    copy = plain(key)
    if isinstance(copy, list | dict):
        raise TypeError("a key of a JSON object is not a container")
    return copy


def same_value(expected: Any, value: Any, tolerance: float = 1e-6) -> bool:
    """Equal as JSON data; floats within a relative or absolute tolerance; a bool is never a number.

    A float for an expected int must be within the absolute tolerance: relative to a large int, one in
    between would pass too. Two NaNs are equal.
    """
    if isinstance(expected, bool) or isinstance(value, bool):
        return expected is value
    if isinstance(expected, float) or isinstance(value, float):
        numbers = isinstance(expected, int | float) and isinstance(value, int | float)
        return numbers and _close(expected, value, tolerance)
    if isinstance(expected, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(expected) == len(value)
            and all(same_value(e, v, tolerance) for e, v in zip(expected, value, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and expected.keys() == value.keys()
            and all(same_value(item, value[key], tolerance) for key, item in expected.items())
        )
    return type(expected) is type(value) and expected == value


def _close(expected: float, value: float, tolerance: float) -> bool:
    relative = tolerance if isinstance(expected, float) else 0.0
    try:
        nans = math.isnan(expected) and math.isnan(value)
        return nans or math.isclose(expected, value, rel_tol=relative, abs_tol=tolerance)
    except OverflowError:  # an int that no float can hold
        return False
