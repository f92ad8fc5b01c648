"""What the project's own code says, so that a change of it is noticed.

A manifest records the source files that its stage is made of: those of `tasks` and `artifacts` that the
stage's entry imports, directly or not, and the modules of rooms such as `tasks.rewards.terms`, which are
found by name. `r1 plan` and `r1 run` compare a hit's files with today's and name those that say something
else. Why they warn, and the key does not hold the code: most edits (a log line, a faster loop) change no
result, and an artifact may have cost days of a GPU. What does change a result is made known by a higher
`version` of the stage, or by `--rebuild`.

Two files say the same if their syntax trees are equal without docstrings: comments, layout and documentation
change nothing.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from tasks.settings import REPOSITORY

ROOMS = ("artifacts", "flows", "tasks")
_STAGES_USE = ("artifacts", "tasks")
_MODULE = re.compile(r"(?:artifacts|tasks)(?:\.\w+)+(?::\w+)?")
_DECLARES = "stage.py"
"""A declaration names the entries of all stages beside it: only rooms that it names are followed."""
_COLUMNS = "tasks/tables.py"
"""Reads the names of the reward terms for a column each; what they compute is not its matter."""


def sources(entry: str, root: Path = REPOSITORY) -> dict[str, str]:
    """Path from `root` -> `BYTES:MEANING`, two digests, of every file that `entry` is made of."""
    waiting, found = [entry.partition(":")[0]], dict[str, str]()
    while waiting:
        for path in _files(waiting.pop(), root):
            name = path.relative_to(root).as_posix()
            if name not in found:
                data = path.read_bytes()
                found[name] = f"{_bytes(data)}:{_meaning(data)}"
                waiting += _named_modules(data, name)
    return dict(sorted(found.items()))


def changed(recorded: Mapping[str, str], root: Path = REPOSITORY) -> list[str]:
    """The files of `recorded` (as `sources` gives them) that are gone or say something else today."""
    return [name for name, digests in recorded.items() if not _is_same(root / name, digests)]


def code_version(root: Path = REPOSITORY) -> str:
    """`BYTES-MEANING` of all code: equal in two checkouts of the same code, wherever they lie."""
    paths = _all(root)
    meaning = _joined((path.relative_to(root).as_posix(), _meaning(path.read_bytes())) for path in paths)
    return f"{code_bytes(root)}-{meaning}"


def code_bytes(root: Path = REPOSITORY) -> str:
    """The first part of `code_version`: takes milliseconds, where the second takes a second."""
    return _joined((path.relative_to(root).as_posix(), _bytes(path.read_bytes())) for path in _all(root))


def is_this_code(version: str, root: Path = REPOSITORY) -> bool:
    """Whether `version` (of `code_version`) means the code that lies here."""
    return (
        version.partition("-")[0] == code_bytes(root)
        or version.partition("-")[2] == (code_version(root).partition("-")[2])
    )


def _all(root: Path) -> list[Path]:
    return sorted(path for room in ROOMS for path in (root / room).rglob("*.py"))


def _joined(parts: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in parts).encode()).hexdigest()[:12]


def _is_same(path: Path, digests: str) -> bool:
    data, (was_bytes, _, was_meaning) = _read(path), digests.partition(":")
    return data is not None and (_bytes(data) == was_bytes or _meaning(data) == was_meaning)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


@cache
def _meaning(data: bytes) -> str:
    try:
        text = ast.dump(_without_docstrings(ast.parse(data)))
    except SyntaxError:
        return _bytes(data)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Strings that stand alone, docstrings of attributes too, are documentation."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not _is_documentation(line)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_documentation(line: ast.stmt) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


@cache
def _named_modules(data: bytes, name: str) -> tuple[str, ...]:
    """What a file imports, wherever in it, and modules and rooms that it names in a text."""
    return tuple(_found_modules(_without_docstrings(ast.parse(data)), name))


def _found_modules(tree: ast.Module, name: str) -> Iterator[str]:
    for node in _at_run_time(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Constant(value=str(text)) if name != _COLUMNS and _MODULE.fullmatch(text):
                module, colon, _ = text.partition(":")
                if not colon:
                    yield f"{module}.*"
                elif name.rpartition("/")[2] != _DECLARES:
                    yield module


def _at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node outside `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            for other in node.orelse:
                yield other
                yield from _at_run_time(other)
            continue
        yield node
        yield from _at_run_time(node)


def _files(module: str, root: Path) -> Iterator[Path]:
    """The file of a module of ours (a name in one is none), its package's, or all of a room (`tasks.x.*`)."""
    parts = module.removesuffix(".*").split(".")
    if parts[0] not in _STAGES_USE:
        return
    place = root.joinpath(*parts)
    if place.with_suffix(".py").is_file():
        yield place.with_suffix(".py")
    elif (place / "__init__.py").is_file():
        yield place / "__init__.py"
        if module.endswith(".*"):
            yield from sorted(place.glob("*.py"))
