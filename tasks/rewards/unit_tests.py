"""Unit tests of a bug-fix problem as calls whose results are compared outside the sandbox (paper B.3.1).

A test that ran beside the program could be told anything by it. So the tests are rewritten:

    assert f(2) == [1, 2]              gives f(2)                           expected [1, 2], kept here
    assert f(2)  /  assert not f(2)    gives f(2)                           expected True / False, kept here
    assert f(2) is None                gives f(2)                           expected None, kept here
    with pytest.raises(KeyError): ...  gives whether KeyError was raised    expected True, kept here

Everything else in a test function stays as it is. What a test compares with must be a literal, and a bare
assertion must hold a real bool; other assertions are refused, since only the program could say if they hold.

`as_calls` parses tests that came with a problem file, and Python's parser can run out of memory or crash on
them. It is called in an isolated process (`tasks.rewards.worker`). The program is never parsed outside the
sandbox: `with_tests` only appends to it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

ENTRY_POINT, _SEEN = "_r1_test", "_r1_seen"


class UnitTestError(ValueError):
    """The problem's tests cannot be rewritten; fix the problem."""


def as_calls(tests: str) -> dict[str, Any]:
    """Return {"tests", "entry_point", "cases"}: the rewritten tests and a function-call case for each.

    Raises:
        UnitTestError: the tests do not parse, hold no test, or assert what cannot be compared outside.
    """
    tree = _parse(tests)
    cases: list[dict[str, Any]] = []
    names: list[str] = []
    for function in [node for node in tree.body if _is_test(node)]:
        assert isinstance(function, ast.FunctionDef)
        rewriter = _Rewriter()
        body = [rewriter.visit(statement) for statement in function.body]
        function.body = [*ast.parse(f"{_SEEN} = []").body, *body, *ast.parse(f"return {_SEEN}").body]
        names.append(function.name)
        cases.append({"args": [len(cases)], "expected": rewriter.expected})
    if not cases or not all(case["expected"] for case in cases):
        raise UnitTestError("every `def test_...():` must assert something, and there must be one")
    choose = f"def {ENTRY_POINT}(number):\n    return [{', '.join(names)}][number]()\n"
    rewritten = ast.unparse(ast.fix_missing_locations(tree))
    _require_json(cases)
    return {"tests": f"{rewritten}\n\n{choose}", "entry_point": ENTRY_POINT, "cases": cases}


def with_tests(program: str, rewritten: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the program with the rewritten tests behind it, and its function-call `verifier_args`."""
    return f"{program}\n\n{rewritten['tests']}", rewritten


class _Rewriter(ast.NodeTransformer):
    """Assertions become values to collect; `expected` lists what they should be, in order."""

    def __init__(self) -> None:
        self.expected: list[Any] = []

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        value, expected = _comparison(node.test)
        self.expected.append(expected)
        return _collect(ast.unparse(value))[0]

    def visit_With(self, node: ast.With) -> ast.stmt:
        call = node.items[0].context_expr
        if not (
            isinstance(call, ast.Call) and ast.unparse(call.func) in ("pytest.raises", "self.assertRaises")
        ):
            return node
        raised = ast.unparse(call.args[0])
        self.expected.append(True)
        guarded = ast.parse(
            f"try:\n    pass\nexcept {raised}:\n    {_SEEN}.append(True)\nelse:\n    {_SEEN}.append(False)"
        )
        statement = guarded.body[0]
        assert isinstance(statement, ast.Try)
        statement.body = node.body
        return statement

    def _refuse(self, node: ast.stmt) -> ast.stmt:
        if any(isinstance(inner, ast.Assert) for inner in ast.walk(node)):
            raise UnitTestError(f"line {node.lineno}: an assertion in a loop or branch: write it out")
        return node

    visit_For = visit_While = visit_If = visit_Try = visit_FunctionDef = _refuse


def _comparison(test: ast.expr) -> tuple[ast.expr, Any]:
    """What to compute in the sandbox, and what it must be."""
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.Is) and len(test.ops) == 1:
        try:
            return test.left, ast.literal_eval(test.comparators[0])
        except ValueError as fault:
            line = ast.unparse(test)
            raise UnitTestError(
                f"`assert {line}` does not compare with a literal: write the value"
            ) from fault
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand, False
    return test, True


def _collect(expression: str) -> list[ast.stmt]:
    return ast.parse(f"{_SEEN}.append({expression})").body


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
