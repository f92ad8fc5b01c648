"""The tests' side of a unit test: runs a test file against a program in another process.

Read `objects.py` first. What the program returns is plain data here, or a `Remote`: attributes, calls and
methods of it are the program's, comparison is not. Two remote objects are equal only if they are one object
that the tests read by name (a member of an enum, say), and a remote object equals no data, so that a class
which lies in `__eq__` gains nothing. `len(x)`, `x[0]`, `y in x`, `str(x)`, arithmetic and iteration reach the
program for objects of classes that the tests name.

Test files run as they come: functions, classes, fixtures, `parametrize`, `raises` and `approx` of pytest (a
small part of it, which is here), unittest, bare assertions (MBPP), `check(candidate)` (HumanEval). Names that
a test does not define, or imports from a module that is not Python's, are the program's. Differs from Python:
`==` in an assertion takes floats within a tolerance and a list for a tuple; an assertion about nothing but a
value of the program needs a bool; a test that passes without any assertion has failed.
"""

from __future__ import annotations

import ast
import builtins
import cmath
import inspect
import itertools
import json
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

from objects import decode, encode  # type: ignore[import-not-found]
from plain import same_value  # type: ignore[import-not-found]

TOLERANCE = 1e-9
"""Floats in `==` of an assertion; those who need more write it in the test."""
_ABSENT = ("numpy", "pandas", "scipy", "torch", "sklearn", "hypothesis")
_FORWARDED = (
    *("len", "str", "repr", "getitem", "setitem", "delitem", "contains", "iter", "next", "enter", "exit"),
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "mod", "pow", "matmul"),
    *(
        "neg",
        "pos",
        "abs",
        "invert",
        "and",
        "or",
        "xor",
        "int",
        "float",
        "index",
        "round",
        "reversed",
        "format",
    ),
)


class TestFault(Exception):
    """The test file cannot be used, whatever the program is."""


class ProgramEnded(BaseException):
    """The program's process is gone, or wrote something else than a reply."""


class Skipped(Exception):
    """A test that its file skips."""


class Program:
    """The program in the other process."""

    def __init__(self, requests: TextIO, replies: TextIO) -> None:
        self._requests, self._replies = requests, replies
        self._remotes: dict[int, Any] = {}
        self._callbacks: list[Callable[..., Any]] = []
        self.named: set[int] = set()
        """Numbers of the classes that the tests name."""
        self.last: Any = None
        """The value that the program returned last."""

    def ask(self, do: str, of: int | None = None, **more: Any) -> Any:
        """Return what the program replied. Raises what it raised."""
        reply = self._exchange({"do": do, "of": of, **more})
        if "raised" in reply:
            raise self._exception(reply)
        self.last = self._decode(reply["value"])
        return self.last

    def call(self, of: int, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """Call an object. Lists, dicts and sets that it changed in place are changed here too."""
        sent = {name: self._encode(value) for name, value in keywords.items()}
        message = {"do": "call", "of": of, "args": list(map(self._encode, arguments)), "keywords": sent}
        reply = self._exchange(message)
        if "raised" in reply:
            raise self._exception(reply)
        for number, value in reply.get("arguments", {}).items():
            _replace(arguments[int(number)], self._decode(value))
        self.last = self._decode(reply["value"])
        return self.last

    def names(self, wanted: set[str]) -> dict[str, Any]:
        """Return the values of the program's top-level names among those that the tests use."""
        tags = self._exchange({"do": "names"}).get("value", {})
        tags = {name: tag for name, tag in tags.items() if name in wanted}
        self.named |= {tag["id"] for tag in tags.values() if isinstance(tag, dict) and "mro" in tag}
        return {name: self._decode(tag) for name, tag in tags.items()}

    def remote(self, tag: Mapping[str, Any]) -> Any:
        """Return the one object here that stands for an object there."""
        number = tag["id"]
        if number not in self._remotes:
            mro = tag.get("mro", [])
            if "BaseException" in mro:
                self._remotes[number] = self._exception_class(mro)
            elif tag.get("of") in self.named or tag.get("iterator"):
                self._remotes[number] = Object(self, tag)
            else:
                self._remotes[number] = Remote(self, tag)
        return self._remotes[number]

    def _exception_class(self, mro: list[str]) -> type[BaseException]:
        base = next(kind for name in mro if isinstance(kind := getattr(builtins, name, None), type))
        return base if base.__name__ == mro[0] else type(mro[0], (base,), {})

    def _exception(self, reply: Mapping[str, Any]) -> BaseException:
        kind = self.remote(reply["class"])
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            return RuntimeError(f"the program raised {reply['raised'][0]}")
        arguments = [self._decode(argument) for argument in reply["args"]]
        try:
            return kind(*arguments)
        except TypeError:
            return RuntimeError(f"the program raised {reply['raised'][0]}")

    def _exchange(self, message: Mapping[str, Any]) -> Any:
        self._send(message)
        while "callback" in (reply := self._receive()):
            self._send(self._called_back(reply))
        return reply

    def _called_back(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            arguments = [self._decode(argument) for argument in request["args"]]
            return {"value": self._encode(self._callbacks[request["callback"]](*arguments))}
        except Exception as failure:  # noqa: BLE001 - raised again in the program, which called
            return {"raised": type(failure).__name__, "text": str(failure)}

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._requests.write(json.dumps(message) + "\n")
            self._requests.flush()
        except OSError:
            raise ProgramEnded from None

    def _receive(self) -> dict[str, Any]:
        try:
            reply = json.loads(self._replies.readline())
        except (ValueError, OSError, RecursionError):
            raise ProgramEnded from None
        if not isinstance(reply, dict):
            raise ProgramEnded
        return reply

    def _encode(self, value: Any) -> Any:
        return encode(value, self._refer)

    def _refer(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Remote):
            return {"t": "object", "id": object.__getattribute__(value, "_number")}
        if not callable(value):
            raise TestFault(f"a {type(value).__name__} cannot be given to the program: give plain data")
        self._callbacks.append(value)
        return {"t": "callback", "id": len(self._callbacks) - 1}

    def _decode(self, value: Any) -> Any:
        try:
            return decode(value, self._resolve)
        except (ValueError, TypeError, LookupError, RecursionError):
            raise ProgramEnded from None

    def _resolve(self, tag: Mapping[str, Any]) -> Any:
        return NotImplemented if tag.get("t") == "not implemented" else self.remote(tag)


class Remote:
    """An object of the program of which only attributes, calls and identity can be asked."""

    def __init__(self, program: Program, tag: Mapping[str, Any]) -> None:
        vars(self).update(_program=program, _number=tag["id"], _kind=str(tag.get("class")), _read=False)

    def __getattr__(self, name: str) -> Any:
        special = name.startswith("__") and name.strip("_") not in (*_FORWARDED, "name")
        if special or name.startswith("_r1"):
            raise AttributeError(name)
        value = self._program.ask("get", self._number, name=name)
        if isinstance(value, Remote):
            vars(value)["_read"] = True
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set", self._number, name=name, args=[self._program._encode(value)])

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._program.call(self._number, arguments, keywords)

    def __instancecheck__(self, instance: Any) -> bool:
        if not isinstance(instance, Remote):
            return False
        tag = {"t": "object", "id": self._number}
        return self._program.ask("instance", instance._number, args=[tag]) is True

    def __eq__(self, other: Any) -> bool:
        return self is other and self._read

    def __hash__(self) -> int:
        return hash(self._number)

    def __bool__(self) -> bool:
        raise TypeError(f"only the program's own {self._kind} could decide this")

    def __repr__(self) -> str:
        return f"<{self._kind} of the program>"


class Object(Remote):
    """An object of a class that the tests name: its special methods are asked too, but for comparisons."""


def _forward(name: str) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any) -> Any:
        if name == "__exit__":
            arguments = (None, None, None)
        return self._program.ask(
            "method", self._number, name=name, args=[self._program._encode(a) for a in arguments]
        )

    return method


for _name in _FORWARDED:
    setattr(Object, f"__{_name}__", _forward(f"__{_name}__"))


def _replace(old: Any, new: Any) -> None:
    if isinstance(old, list) and isinstance(new, list):
        old[:] = new
    elif isinstance(old, dict | set) and isinstance(new, type(old)):
        old.clear()
        old.update(new)


# ---- assertions ----------------------------------------------------------------------------------


class Assertions:
    """What stands in for the assertions of a test file."""

    def __init__(self, program: Program, tolerance: float) -> None:
        self._program, self._tolerance = program, tolerance
        self.made = 0

    def true(self, value: Any) -> bool:
        """Count an assertion. A bare value of the program must be a bool."""
        self.made += 1
        if value is self._program.last and not isinstance(value, bool):
            return False
        return bool(value)

    def equal(self, left: Any, right: Any) -> bool:
        if isinstance(left, Remote) or isinstance(right, Remote):
            return bool(left == right)
        if isinstance(left, Approx) or isinstance(right, Approx):
            return bool(left == right)
        if isinstance(left, complex) or isinstance(right, complex):
            numbers = isinstance(left, int | float | complex) and isinstance(right, int | float | complex)
            return numbers and cmath.isclose(left, right, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        if isinstance(left, list | tuple) and isinstance(right, list | tuple):
            return len(left) == len(right) and all(map(self.equal, left, right))
        if isinstance(left, dict) and isinstance(right, dict):
            return left.keys() == right.keys() and all(self.equal(v, right[k]) for k, v in left.items())
        if isinstance(left, bool | int | float | str) or isinstance(right, bool | int | float | str):
            return same_value(left, right, self._tolerance)
        return bool(left == right)


class Approx:
    """`pytest.approx`."""

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None) -> None:
        self._expected, self._relative, self._absolute = expected, rel, abs

    def __eq__(self, value: object) -> bool:
        return self._near(self._expected, value)

    __hash__ = None  # type: ignore[assignment]

    def _near(self, expected: Any, value: Any) -> bool:
        if isinstance(expected, list | tuple):
            return (
                isinstance(value, list | tuple)
                and len(value) == len(expected)
                and all(map(self._near, expected, value))
            )
        if isinstance(expected, dict):
            return (
                isinstance(value, dict)
                and value.keys() == expected.keys()
                and all(self._near(item, value[key]) for key, item in expected.items())
            )
        if isinstance(value, bool) or not isinstance(value, int | float | complex):
            return False
        relative = (
            self._relative if self._relative is not None else 0.0 if self._absolute is not None else 1e-6
        )
        absolute = 1e-12 if self._absolute is None else self._absolute
        return cmath.isclose(expected, value, rel_tol=relative, abs_tol=absolute) or (
            expected != expected and value != value
        )


class Raises:
    """`pytest.raises`, as a context."""

    def __init__(self, assertions: Assertions, expected: Any, match: str | None) -> None:
        self._assertions, self._expected, self._match = assertions, expected, match
        self.value: BaseException | None = None
        self.type: type[BaseException] | None = None

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> bool:
        self._assertions.made += 1
        if kind is None:
            raise AssertionError("nothing was raised")
        self.value, self.type = value, kind
        matches = self._match is None or re.search(self._match, str(value)) is not None
        return issubclass(kind, self._expected) and matches


def pytest_module(assertions: Assertions) -> types.ModuleType:
    """Return the part of pytest that test files of single functions and classes use."""

    def raises(expected: Any, *call: Any, match: str | None = None, **keywords: Any) -> Any:
        context = Raises(assertions, expected, match)
        if not call:
            return context
        with context:
            call[0](*call[1:], **keywords)
        return context

    def parametrize(names: Any, values: Any, **_: Any) -> Callable[[Any], Any]:
        split = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        rows = [row.values if isinstance(row, Param) else row if len(split) > 1 else (row,) for row in values]
        return _marking("_r1_rows", (split, [dict(zip(split, row, strict=True)) for row in rows]))

    def fixture(function: Any = None, *, name: str | None = None, autouse: bool = False, **_: Any) -> Any:
        def mark(made: Any) -> Any:
            made._r1_fixture, made._r1_autouse = name or made.__name__, autouse
            return made

        return mark(function) if callable(function) else mark

    def skip(*_: Any, **__: Any) -> Any:
        raise Skipped

    def fail(reason: str = "", **_: Any) -> Any:
        raise AssertionError(reason)

    module = types.ModuleType("pytest")
    vars(module).update(
        raises=raises, approx=Approx, fixture=fixture, skip=skip, fail=fail, mark=Marks(parametrize)
    )
    vars(module)["param"] = lambda *values, **_: Param(values)
    return module


class Param:
    """`pytest.param`."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values


class Marks:
    """`pytest.mark`: `parametrize` counts, `skip` skips, others change nothing."""

    def __init__(self, parametrize: Callable[..., Any]) -> None:
        self.parametrize = parametrize

    def __getattr__(self, name: str) -> Any:
        def mark(*arguments: Any, **_: Any) -> Any:
            if len(arguments) == 1 and callable(arguments[0]):
                return _marking(f"_r1_{name}", True)(arguments[0])
            return _marking(f"_r1_{name}", True)

        return mark


def _marking(attribute: str, value: Any) -> Callable[[Any], Any]:
    def decorate(target: Any) -> Any:
        rows = attribute == "_r1_rows"
        setattr(target, attribute, [*vars(target).get(attribute, []), value] if rows else value)
        return target

    return decorate


# ---- the test file -------------------------------------------------------------------------------


class _Rewrite(ast.NodeTransformer):
    """Hands assertions to `Assertions`."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        if isinstance(node.test, ast.Constant):
            return node
        node.test = _called("_r1_true", [_Equalities().visit(node.test)])
        return node


class _Equalities(ast.NodeTransformer):
    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) != 1 or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
            return node
        equal = _called("_r1_equal", [node.left, node.comparators[0]])
        return equal if isinstance(node.ops[0], ast.Eq) else ast.UnaryOp(ast.Not(), equal)


def _called(name: str, arguments: list[ast.expr]) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), arguments, [])


class TestFile:
    """A parsed test file: what it asserts, and which names it takes from the program."""

    def __init__(self, source: str) -> None:
        """Raises TestFault where it does not parse or asserts nothing."""
        try:
            self.tree = ast.parse(source)
            nodes = list(ast.walk(self.tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
            raise TestFault(f"they do not parse: {fault}") from fault
        helpers = {n.name for n in self.tree.body if isinstance(n, ast.FunctionDef)}
        if not any(_asserts(node) for node in nodes):
            raise TestFault("they assert nothing: give at least one assertion")
        for node in nodes:
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test"):
                continue
            if not any(_asserts(n) or _calls(n, helpers) for n in ast.walk(node)):
                raise TestFault(f"`{node.name}` asserts nothing: give every test an assertion")
        self.calls_check = any(isinstance(n, ast.Expr) and _calls(n.value, {"check"}) for n in self.tree.body)
        self.names = _free_names(nodes)
        self.modules = self._program_modules()

    def _program_modules(self) -> list[ast.Import | ast.ImportFrom]:
        """Take the imports of modules that are not Python's out of the file, and return them."""
        found: list[ast.Import | ast.ImportFrom] = []
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                tops = {name.partition(".")[0] for name in names}
                if tops & set(_ABSENT):
                    raise TestFault(f"they import {', '.join(sorted(tops))}, which the sandbox does not have")
                if not tops <= sys.stdlib_module_names | {"pytest", "__future__"}:
                    found.append(node)
        self.tree.body = [node for node in self.tree.body if node not in found]
        return found


def _asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return not isinstance(node.test, ast.Constant)
    name = node.attr if isinstance(node, ast.Attribute) else ""
    return name.startswith("assert") or name in ("raises", "fail")


def _calls(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _free_names(nodes: list[ast.AST]) -> set[str]:
    """Return the names that the file reads and does not bind anywhere."""
    read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    bound = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    bound |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    bound |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(a.asname or a.name).partition(".")[0] for a in node.names}
    return read - bound


# ---- running it ----------------------------------------------------------------------------------


class Runner:
    """Runs one test file and counts."""

    def __init__(self, file: TestFile, program: Program, entry_point: str | None, tolerance: float) -> None:
        self._file, self._program, self._entry_point = file, program, entry_point
        self._assertions = Assertions(program, tolerance)
        self._total = self._passed = 0
        self._first = ""

    def run(self) -> dict[str, Any]:
        """Return {"passed", "total", "first"}: how many tests, and why the first of them failed."""
        try:
            self._run()
        except ProgramEnded:
            self._count(False, "the program ended")
        if not self._total:
            raise TestFault("they hold no test: give `def test_...():`, assertions, or check(candidate)")
        return {"passed": self._passed, "total": self._total, "first": self._first[:200]}

    def _run(self) -> None:
        module = types.ModuleType("tests")
        sys.modules.update(tests=module, pytest=pytest_module(self._assertions))
        space = vars(module)
        space |= {"_r1_true": self._assertions.true, "_r1_equal": self._assertions.equal}
        space |= {"pytest": sys.modules["pytest"], **self._taken()}
        for statement in _Rewrite().visit(self._file.tree).body:
            code = compile(ast.fix_missing_locations(ast.Module([statement], [])), "<tests>", "exec")
            if isinstance(statement, ast.Assert):
                self._test(partial(exec, code, space))
            else:
                made = self._assertions.made
                holds = self._holds(partial(exec, code, space), needs_assertion=False)
                if not holds or self._assertions.made > made:
                    self._count(holds)
                if not holds:
                    return  # what all tests need is not there
        for test in self._collected(space):
            self._test(test)

    def _taken(self) -> dict[str, Any]:
        """Return what the file gets from the program, under the names that it uses."""
        file = self._file
        attributes = {n.attr for n in ast.walk(file.tree) if isinstance(n, ast.Attribute)}
        imported = [
            alias for node in file.modules if isinstance(node, ast.ImportFrom) for alias in node.names
        ]
        wanted = file.names | {alias.name for alias in imported}
        own = wanted - set(dir(builtins))
        # A built-in name is the program's only where nothing else is tested (MBPP has a `sum`).
        only_builtins = not own and not file.modules and self._entry_point is None
        found = self._program.names(
            (wanted if only_builtins else own) | (attributes if file.modules else set())
        )
        taken = {name: value for name, value in found.items() if name in wanted}
        for alias in imported:
            if alias.name in found:
                taken[alias.asname or alias.name] = found[alias.name]
        for node in file.modules:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    taken[name] = types.SimpleNamespace(**found)
        return taken

    def _collected(self, space: dict[str, Any]) -> Iterator[Callable[[], Any]]:
        fixtures = {
            v._r1_fixture: v for v in space.values() if hasattr(v, "__code__") and hasattr(v, "_r1_fixture")
        }
        for name, value in list(space.items()):
            if isinstance(value, types.FunctionType) and name.startswith("test"):
                yield from _cases(value, fixtures, [])
            elif isinstance(value, type) and _is_unittest(value):
                yield from _unittest_cases(value, self._assertions)
            elif isinstance(value, type) and name.startswith("Test") and value.__module__ == "tests":
                for method in [m for m in vars(value) if m.startswith("test")]:
                    yield from _method_cases(value, method, fixtures)
        check = space.get("check")
        if isinstance(check, types.FunctionType) and not self._file.calls_check:
            if self._entry_point is None:
                raise TestFault("they define check(candidate): give `entry_point`, the function to check")
            yield lambda: check(self._program.ask("entry", name=self._entry_point))

    def _test(self, test: Callable[[], Any]) -> None:
        with suppress(Skipped):
            self._count(self._holds(test))

    def _count(self, passed: bool, reason: str = "") -> None:
        self._total += 1
        self._passed += passed
        self._first = self._first or reason

    def _holds(self, test: Callable[[], Any], needs_assertion: bool = True) -> bool:
        made = self._assertions.made
        try:
            test()
        except (TestFault, Skipped):
            raise
        except Exception as failure:  # noqa: BLE001 - tests raise anything; it is what they are for
            self._first = self._first or f"{type(failure).__name__}: {failure}"
            return False
        return not needs_assertion or self._assertions.made > made


def _is_unittest(kind: type) -> bool:
    return "unittest" in sys.modules and issubclass(kind, sys.modules["unittest"].TestCase)


def _unittest_cases(kind: Any, assertions: Assertions) -> Iterator[Callable[[], Any]]:
    unittest = sys.modules["unittest"]
    for case in unittest.defaultTestLoader.loadTestsFromTestCase(kind):

        def test(case: Any = case) -> None:
            result = unittest.TestResult()
            case.run(result)
            assertions.made += 1  # its own assertions are methods, which are not counted
            if result.skipped:
                raise Skipped
            failed = [text for _, text in [*result.failures, *result.errors]]
            if failed:
                raise AssertionError(failed[0].strip().splitlines()[-1])

        yield test


def _method_cases(kind: Any, method: str, fixtures: dict[str, Any]) -> Iterator[Callable[[], Any]]:
    for number in range(sum(1 for _ in _cases(getattr(kind, method), fixtures, _rows(kind), kind()))):

        def test(number: int = number) -> None:
            instance = kind()  # each test has its own
            own = {
                f._r1_fixture: f
                for f in map(instance.__getattribute__, dir(kind))
                if hasattr(f, "_r1_fixture")
            }
            for name in ("setup_class", "setup_method"):
                if hasattr(instance, name):
                    getattr(instance, name)()
            bound = _cases(getattr(instance, method), {**fixtures, **own}, _rows(kind))
            next(itertools.islice(bound, number, None))()

        yield test


def _rows(target: Any) -> list[Any]:
    return list(getattr(target, "_r1_rows", []))


def _cases(
    function: Any, fixtures: dict[str, Any], outer: list[Any], instance: Any = None
) -> Iterator[Callable[[], Any]]:
    """One test for each combination of parameters. `instance` stands for `self` where it is not bound."""
    tables = [rows for _, rows in [*outer, *_rows(function)]]
    skipped = bool(getattr(function, "_r1_skip", False))
    for chosen in itertools.product(*tables):
        row = {name: value for values in chosen for name, value in values.items()}
        if instance is not None:
            row = {"self": instance, **row}
        yield _skip if skipped else partial(_call, function, row, fixtures)


def _skip() -> None:
    raise Skipped


def _call(function: Any, row: dict[str, Any], fixtures: dict[str, Any]) -> None:
    """Call a test with its parameters and fixtures; fixtures that yield are finished afterwards."""
    made: dict[str, Any] = {}
    open_: list[Any] = []

    def value_of(name: str) -> Any:
        if name in row:
            return row[name]
        if name not in made:
            if name not in fixtures:
                raise TestFault(
                    f"`{function.__name__}` asks for {name!r}, which is no parameter or fixture of the file"
                )
            given = fixtures[name](*map(value_of, inspect.signature(fixtures[name]).parameters))
            if inspect.isgenerator(given):
                open_.append(given)
                given = next(given)
            made[name] = given
        return made[name]

    for name, fixture in fixtures.items():
        if fixture._r1_autouse:
            value_of(name)
    parameters = inspect.signature(function).parameters.values()
    wanted = [p.name for p in parameters if p.default is p.empty or p.name in row]
    try:
        function(**{name: value_of(name) for name in wanted})
    finally:
        for generator in reversed(open_):
            next(generator, None)


def run_tests(
    source: bytes, request: Mapping[str, Any], requests: TextIO, replies: TextIO, parsed: Callable[[], None]
) -> bytes:
    """Return the counts of a test file as JSON, or {"fault"}: why it cannot be used.

    `parsed` is called before the program is: whoever does not see it knows that the file broke the parser.
    """
    try:
        try:
            file = TestFile(source.decode(errors="replace"))
        finally:
            parsed()
        tolerance = TOLERANCE if request["tolerance"] is None else request["tolerance"]
        program = Program(requests, replies)
        runner = Runner(file, program, request["entry_point"], tolerance)
        return json.dumps(runner.run()).encode()
    except TestFault as fault:
        return json.dumps({"fault": str(fault)[:500]}).encode()
