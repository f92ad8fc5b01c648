"""Unit tests of a bug-fix problem as calls whose results are compared outside the sandbox (paper B.3.1).

A test that ran beside the program could be told anything by it: its objects may lie in `__eq__`, `__gt__`,
`__contains__` or `__len__`. So each assertion is rewritten into a value to collect, as plain data, and
checks of that value (`tasks.rewards.checks`) that stay outside:

    assert f(2) == [1, 2]                    collects f(2)        checks that it is [1, 2]
    assert 3 in f(2), len(f(2)) > 1          collects f(2)        checks what it holds, how long it is
    assert f(2)  /  assert not f(2)          collects f(2)        checks that it is True / False
    assert abs(f(2) - 0.5) < 1e-6            collects f(2)        computes the difference
    with pytest.raises(KeyError): ...        collects whether it was raised

Everything else in a test function stays as it is. What a test compares with must be a literal, and a bare
assertion must hold a real bool. Assertions that only the program's objects could decide are refused: two
values of the program compared, `or`, `any`, `all`, `hasattr`, a function of the tests, assertions in loops
or branches. `len(x)` and `y in x` need an `x` that is plain data; of a class of the program, a test compares
what its methods return (`x.__len__()`).

`as_calls` parses tests that came with a problem file, and Python's parser can run out of memory or crash on
them. It is called in an isolated process (`tasks.rewards.worker`). The program is never parsed outside the
sandbox: `with_tests` only appends to it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from tasks.rewards.checks import NEGATED, TYPES, Check

ENTRY_POINT, _SEEN, _PLAIN = "_r1_test", "_r1_seen", "_r1_plain"
_PRELUDE = f"from plain import plain as {_PLAIN}\n"
"""The zygote has imported `tasks/sandbox/plain.py` under this name."""
_INSIDE = frozenset({"all", "any", "bool", "callable", "hasattr", "isinstance", "issubclass"})
"""Built-in functions whose answer the program's objects decide."""
_OPERATORS: Mapping[type[ast.cmpop], str] = {
    **{ast.Eq: "==", ast.NotEq: "!=", ast.Is: "==", ast.IsNot: "!=", ast.In: "in", ast.NotIn: "not in"},
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="},
}
_SWAPPED = {
    **{"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="},
    **{"in": "contains", "not in": "not contains"},
}
"""The same comparison with its two sides exchanged."""


class UnitTestError(ValueError):
    """The problem's tests cannot be rewritten; fix the problem."""


def as_calls(tests: str) -> dict[str, Any]:
    """Return {"tests", "entry_point", "cases"}: the rewritten tests and a function-call case for each.

    Raises:
        UnitTestError: the tests do not parse, hold no test, or assert what cannot be compared outside.
    """
    tree = _parse(tests)
    helpers = frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    cases: list[dict[str, Any]] = []
    names: list[str] = []
    for function in [node for node in tree.body if _is_test(node)]:
        assert isinstance(function, ast.FunctionDef)
        checks: list[Check] = []
        body = [new for statement in function.body for new in _rewritten(statement, checks, helpers)]
        function.body = [*ast.parse(f"{_SEEN} = []").body, *body, *ast.parse(f"return {_SEEN}").body]
        names.append(function.name)
        cases.append({"args": [len(cases)], "checks": checks})
    if not cases or not all(case["checks"] for case in cases):
        raise UnitTestError("every `def test_...():` must assert something, and there must be one")
    choose = f"def {ENTRY_POINT}(number):\n    return [{', '.join(names)}][number]()\n"
    rewritten = ast.unparse(ast.fix_missing_locations(tree))
    _require_json(cases)
    return {"tests": f"{_PRELUDE}{rewritten}\n\n{choose}", "entry_point": ENTRY_POINT, "cases": cases}


def with_tests(program: str, rewritten: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the program with the rewritten tests behind it, and its function-call `verifier_args`."""
    return f"{program}\n\n{rewritten['tests']}", rewritten


def _rewritten(statement: ast.stmt, checks: list[Check], helpers: frozenset[str]) -> list[ast.stmt]:
    """Return what stands for a statement of a test; its checks are added to `checks`."""
    if isinstance(statement, ast.Assert):
        return _collected(statement.test, checks, helpers)
    inner = statement.body if isinstance(statement, ast.With) else [statement]
    if any(isinstance(node, ast.Assert) for line in inner for node in ast.walk(line)):
        raise UnitTestError(f"line {statement.lineno}: an assertion in a loop, branch or block: write it out")
    if isinstance(statement, ast.With) and (raised := _expected_exception(statement)):
        checks.append({"steps": [], "conditions": [["==", True]]})
        return _guarded(statement.body, raised)
    return [statement]


def _expected_exception(statement: ast.With) -> str | None:
    """Return the exception that `with pytest.raises(...)` names; None for any other block."""
    call = statement.items[0].context_expr
    known = isinstance(call, ast.Call) and ast.unparse(call.func) in ("pytest.raises", "self.assertRaises")
    return ast.unparse(call.args[0]) if known and isinstance(call, ast.Call) and call.args else None


def _guarded(body: list[ast.stmt], raised: str) -> list[ast.stmt]:
    """Return the block with the collection of whether `raised` was raised."""
    text = f"try:\n    pass\nexcept {raised}:\n    {_SEEN}.append(True)\nelse:\n    {_SEEN}.append(False)"
    guarded = ast.parse(text).body[0]
    assert isinstance(guarded, ast.Try)
    guarded.body = body
    return [guarded]


def _collected(test: ast.expr, checks: list[Check], helpers: frozenset[str]) -> list[ast.stmt]:
    """Return the statements that collect what an assertion is about, and add its checks."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return [line for part in test.values for line in _collected(part, checks, helpers)]
    value, conditions = _conditions(test)
    value, steps = _steps(value)
    if steps and conditions in ([["==", True]], [["==", False]]):  # `assert len(x)`: a number, not a bool
        conditions = [["!=" if conditions[0][1] else "==", 0]]
    _refuse_inside(test, value, conditions, helpers)
    checks.append({"steps": steps, "conditions": conditions})
    return ast.parse(f"{_SEEN}.append({_PLAIN}({ast.unparse(value)}))").body


def _conditions(test: ast.expr) -> tuple[ast.expr, list[list[Any]]]:
    """Split an assertion into the expression to evaluate inside and what must be true of its value."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        value, conditions = _conditions(test.operand)
        if len(conditions) != 1:
            raise UnitTestError(
                f"`assert {ast.unparse(test)}` has two comparisons under `not`: write them out"
            )
        ((operator, literal),) = conditions
        bare = (operator, literal) == ("==", True) and not isinstance(test.operand, ast.Compare)
        return value, [["==", False] if bare else [NEGATED[operator], literal]]
    if isinstance(test, ast.Compare):
        return _comparison(test)
    if isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance" and len(test.args) == 2:
        kinds = test.args[1].elts if isinstance(test.args[1], ast.Tuple) else [test.args[1]]
        names = [ast.unparse(kind) for kind in kinds]
        if all(name in TYPES for name in names):
            return test.args[0], [["isinstance", names]]
    return test, [["==", True]]


def _comparison(test: ast.Compare) -> tuple[ast.expr, list[list[Any]]]:
    """Return the one side that is no literal, and each comparison of it with a literal."""
    sides, conditions, value = [test.left, *test.comparators], [], None
    for at, comparison in enumerate(test.ops):
        left, right, operator = sides[at], sides[at + 1], _OPERATORS[type(comparison)]
        if _is_literal(right) and not (at and _is_literal(left)):
            literal = ast.literal_eval(right)
            found, condition = (
                left,
                [operator, sorted(literal) if _is_members(operator, literal) else literal],
            )
        elif _is_literal(left):
            found, condition = right, [_SWAPPED[operator], ast.literal_eval(left)]
        else:
            raise UnitTestError(
                f"`assert {ast.unparse(test)}` does not compare with a literal: write the value"
            )
        if value is not None and found is not value:
            raise UnitTestError(f"`assert {ast.unparse(test)}` compares two values: write two assertions")
        value = found
        conditions.append(condition)
    assert value is not None
    return value, conditions


def _steps(value: ast.expr) -> tuple[ast.expr, list[list[Any]]]:
    """Take off what can be computed outside, so that no `__len__` or `__abs__` of the program is asked."""
    if isinstance(value, ast.Call) and not value.keywords and len(value.args) in (1, 2):
        name, rest = ast.unparse(value.func), value.args[1:]
        if (name in ("len", "abs", "sorted") and not rest) or (
            name == "round" and all(map(_is_literal, rest))
        ):
            inner, steps = _steps(value.args[0])
            return inner, [*steps, [name, *map(ast.literal_eval, rest)]]
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Sub):
        for side, other, name in ((value.left, value.right, "minus"), (value.right, value.left, "from")):
            if _is_literal(other) and not _is_literal(side):
                inner, steps = _steps(side)
                return inner, [*steps, [name, ast.literal_eval(other)]]
    return value, []


def _refuse_inside(
    test: ast.expr, value: ast.expr, conditions: list[list[Any]], helpers: frozenset[str]
) -> None:
    """Raise UnitTestError where the program's own objects would decide whether the assertion holds."""
    function = value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""
    says_yes_or_no = all(isinstance(literal, bool) for _, literal in conditions)
    if (
        isinstance(value, ast.Compare | ast.BoolOp)
        or (isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not))
        or function in _INSIDE
        or (function in helpers and says_yes_or_no)
    ):
        raise UnitTestError(
            f"only the program's own objects could decide `assert {ast.unparse(test)}`: "
            "compare one of its values with a literal"
        )


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True


def _is_members(operator: str, literal: Any) -> bool:
    """Tell whether a set only lists what a value may be; a set that a value must equal is not JSON data."""
    return operator in ("in", "not in") and isinstance(literal, set)


def _require_json(cases: list[dict[str, Any]]) -> None:
    """The sandbox returns JSON, so nothing else could ever be equal to what it returns."""
    try:
        json.dumps(cases)
    except (TypeError, ValueError) as fault:
        raise UnitTestError(f"an expected value is not JSON data ({fault}): write a list") from fault


def _parse(tests: str) -> ast.Module:
    try:
        return ast.parse(tests)
    except (SyntaxError, ValueError) as fault:
        raise UnitTestError(f"they do not parse: {fault}") from fault


def _is_test(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test") and not node.args.args
