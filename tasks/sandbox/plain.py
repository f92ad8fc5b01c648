"""Copies a value as plain data, by the built-in types' own methods (in the program's process).

Nothing that a class of the program defines is called (`__eq__`, `__len__`, `__iter__`, a false `__class__`).
A namedtuple, an IntEnum or a Counter becomes what it is made of.
"""

from __future__ import annotations

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
