"""The program's side of a unit test: does what the tests ask of its objects (in the program's process).

A test and the program that it tests run in two processes, so that the program can neither read what is
expected nor decide what is equal. Plain data crosses as copies. Any other object stays here and is known to
the tests by a number. Standard library only; the program may do what it likes to this process, and can only
answer as a wrong or right program could.

    request   {"do": "names"} | {"do": "entry", "name": text}
              {"do": "get" | "set" | "call" | "method" | "instance", "of": number, ...}
    reply     {"value"} | {"value", "arguments"}
              {"raised": [names of classes], "class": value, "args": [...]}

One JSON line each. While a call runs, the program may call a function of the tests: {"callback", "args"}.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from typing import Any, TextIO


def encode(value: Any, refer: Callable[[Any], dict[str, Any]]) -> Any:
    """Return `value` as JSON data with tags; `refer` stands for what is no plain data.

    Only the built-in types' own methods are called, as in `plain`. A namedtuple keeps its names.
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
    if kind is complex:
        return {"t": "complex", "v": [value.real, value.imag]}
    if kind is bytes:
        return {"t": "bytes", "v": value.hex()}
    if issubclass(kind, list):
        return [encode(item, refer) for item in list.__iter__(value)]
    if issubclass(kind, tuple):
        items = [encode(item, refer) for item in tuple.__iter__(value)]
        fields = kind.__dict__.get("_fields")
        if kind is not tuple and isinstance(fields, tuple) and len(fields) == len(items):
            return {"t": "named", "n": kind.__name__, "f": [str(field) for field in fields], "v": items}
        return {"t": "tuple", "v": items}
    if kind in (set, frozenset):
        return {"t": kind.__name__, "v": [encode(item, refer) for item in value]}
    if issubclass(kind, dict):
        return {"t": "dict", "v": [[encode(k, refer), encode(v, refer)] for k, v in dict.items(value)]}
    return refer(value)


def find_function(module: types.ModuleType, entry_point: str) -> Callable[..., Any]:
    """Return `add`, or a method of `Solution.add` or `Solution().add` bound to a new instance.

    A program may have the function at its top level where a method is named, and the other way round as a
    method of `class Solution`: both are usual for the same contest problem. Raises AttributeError.
    """
    owner, _, name = entry_point.replace("()", "").rpartition(".")
    holder = getattr(module, owner or "Solution", None)
    if hasattr(module, name) and (not owner or holder is None):
        return getattr(module, name)
    if holder is None:
        raise AttributeError(entry_point)
    return getattr(holder() if isinstance(holder, type) else holder, name)


class ObjectServer:
    """Answers requests about the objects of one program until the tests end."""

    def __init__(self, module: types.ModuleType, requests: TextIO, replies: TextIO) -> None:
        self._module, self._requests, self._replies = module, requests, replies
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def run(self) -> None:
        """Serve; raises EOFError when the tests are over."""
        while True:
            self._send(self._answer(self._receive()))

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._done(request)
        except EOFError:
            raise
        except BaseException as failure:  # noqa: BLE001 - what the program raises goes to the tests
            names = [kind.__name__ for kind in type(failure).__mro__]
            try:
                arguments = [self._encode(argument) for argument in failure.args]
            except Exception:  # noqa: BLE001 - arguments that are no data are left out
                arguments = []
            return {"raised": names, "class": self._refer(type(failure)), "args": arguments}

    def _done(self, request: Mapping[str, Any]) -> dict[str, Any]:
        what = request["do"]
        if what == "names":
            return {"value": {n: self._encode(v) for n, v in vars(self._module).items() if n[:2] != "__"}}
        if what == "entry":
            return {"value": self._encode(find_function(self._module, request["name"]))}
        of = self._objects[request["of"]]
        arguments = [self._decode(argument) for argument in request.get("args", [])]
        if what == "call":
            return self._called(of, arguments, request)
        if what == "get":
            return {"value": self._encode(getattr(of, request["name"]))}
        if what == "set":
            setattr(of, request["name"], *arguments)
            return {"value": None}
        if what == "instance":
            return {"value": isinstance(type(of), type) and issubclass(type(of), *arguments)}
        value = getattr(type(of), request["name"])(of, *arguments)
        return {"value": {"t": "not implemented"} if value is NotImplemented else self._encode(value)}

    def _called(self, function: Any, arguments: list[Any], request: Mapping[str, Any]) -> dict[str, Any]:
        keywords = {name: self._decode(value) for name, value in request["keywords"].items()}
        before = [self._encode(argument) for argument in arguments]
        result = function(*arguments, **keywords)
        reply: dict[str, Any] = {"value": self._encode(result)}
        if result is None:  # a function that works in place
            after = [self._encode(argument) for argument in arguments]
            pairs = zip(before, after, strict=True)
            reply["arguments"] = {n: new for n, (old, new) in enumerate(pairs) if old != new}
        return reply

    def _encode(self, value: Any) -> Any:
        return encode(value, self._refer)

    def _refer(self, value: Any) -> dict[str, Any]:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # kept, so that its id stays its own
        tag = {"t": "object", "id": number, "class": type(value).__name__, "of": None}
        if isinstance(value, type):
            tag["mro"] = [kind.__name__ for kind in value.__mro__]
        elif hasattr(type(value), "__next__"):
            tag["iterator"] = True
        if not isinstance(value, type):
            tag["of"] = self._refer(type(value))["id"]
        return tag

    def _decode(self, value: Any) -> Any:
        def resolve(tag: Mapping[str, Any]) -> Any:
            if tag["t"] == "object":
                return self._objects[tag["id"]]
            return lambda *arguments: self._call_back(tag["id"], arguments)

        return decode(value, resolve)

    def _call_back(self, number: int, arguments: tuple[Any, ...]) -> Any:
        self._send({"callback": number, "args": [self._encode(argument) for argument in arguments]})
        while "do" in (message := self._receive()):
            self._send(self._answer(message))
        if "raised" in message:
            kind = getattr(__import__("builtins"), message["raised"], Exception)
            raise kind(message["text"])
        return self._decode(message["value"])

    def _receive(self) -> Any:
        if not (line := self._requests.readline()):
            raise EOFError
        return json.loads(line)

    def _send(self, message: Mapping[str, Any]) -> None:
        self._replies.write(json.dumps(message) + "\n")
        self._replies.flush()


def decode(value: Any, resolve: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Return what `encode` was given; `resolve` finds the objects. Raises ValueError for anything else."""
    if isinstance(value, list):
        return [decode(item, resolve) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = value.get("t"), value.get("v")
    if kind in ("tuple", "set", "frozenset") and isinstance(content, list):
        items = [decode(item, resolve) for item in content]
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)
    if kind == "dict" and isinstance(content, list):
        return {decode(k, resolve): decode(v, resolve) for k, v in content}
    if kind == "complex" and isinstance(content, list):
        return complex(*content)
    if kind == "bytes" and isinstance(content, str):
        return bytes.fromhex(content)
    if kind == "named" and isinstance(content, list):
        from collections import namedtuple

        return namedtuple(value["n"], value["f"])(*(decode(item, resolve) for item in content))
    return resolve(value)
