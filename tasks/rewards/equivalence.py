"""Whether two answers that were read in full (`tasks.rewards.grammar`) are the same answer.

| gold | also right |
| --- | --- |
| a value | `x = value` for one variable; a true chain of numbers (`1/2 = 0.5`); a decimal that is it
rounded to six or more places |
| an equation | an equivalent equation: both sides' difference times a constant |
| a tuple | the same in order: `1, 2`, `x = 1, y = 2`; a pair is also the interval |
| a set or list | the same in any order |
| an interval | the inequality, and the other way round |
| a percentage | its number with or without the sign, and its hundredth |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any

import sympy
from sympy import S, oo

from tasks.rewards.grammar import (
    PLUS_MINUS,
    Based,
    Chain,
    Grid,
    Items,
    Name,
    Node,
    Ratio,
    Region,
    Value,
    symbol,
)
from tasks.rewards.numeric import proportional, rounded, same_expression

ROUNDED = 6
"""Decimals and significant digits from which a decimal may stand for the value that it is rounded from."""
_FLIPPED = {"<": ">", ">": "<", "le": "ge", "ge": "le"}
_BOUNDED = {
    "<": (-oo, None, True, True), "le": (-oo, None, True, False), ">": (None, oo, True, True), "ge": (None,
    oo, False, True),
}  # fmt: skip
_SETS = {
    "R": S.Reals,
    "Z": S.Integers,
    "Q": S.Rationals,
    "N": S.Naturals,
    "C": S.Complexes,
    "empty": S.EmptySet,
}


def variables(node: Node | None) -> frozenset[str]:
    """The names of the variables in an answer."""
    match node:
        case Value(expression):
            return frozenset(s.name for s in expression.free_symbols)
        case Items(_, parts) | Chain(parts) | Region(_, parts) | Ratio(parts):
            return frozenset().union(*map(variables, parts))
        case Grid(rows):
            return frozenset().union(*(variables(cell) for row in rows for cell in row))
        case Name(text):
            return frozenset(letter for letter in text if letter.isalpha())
    return frozenset()


def in_radians(degrees: Node, gold: Node) -> Node:
    r"""`30^\circ` as `\pi/6` where that is how the gold answer is written."""
    if isinstance(degrees, Value) and isinstance(gold, Value) and gold.expression.has(sympy.pi):
        return Value(degrees.expression * sympy.pi / 180)
    return degrees


def same_answer(gold: Node, given: Node) -> bool:
    """Tell whether an answer is the gold answer or one of its other forms."""
    if (
        isinstance(given, Items)
        and isinstance(gold, Items)
        and not any(isinstance(item, Chain) for item in gold.items)
    ):
        given = _roots(given)
    if (
        isinstance(given, Chain)
        and given.relations == ("approx",)
        and isinstance(gold, Value)
        and gold.places
    ):
        exact, decimal = given.sides
        return (
            decimal is not None
            and same_value(gold, decimal)
            and (exact is None or _true_chain((exact, decimal), ("approx",)))
        )
    gold, given = _plus_minus(_read_relations(gold)), _plus_minus(_read_relations(given))
    if isinstance(gold, Chain) and isinstance(given, Chain) and (gold.modulus or given.modulus):
        return _congruent(gold, given)
    gold_name, gold_value = _named(gold)
    name, value = _named(given)
    if gold_value is not None and value is not None and not (gold_name and name and gold_name != name):
        return same_value(gold_value, value)
    region = None if _is_tuple(gold) and _is_tuple(given) else _region(gold_value or gold)
    other = None if region is None else _region(value or given)  # solving an inequality takes long
    if other is not None:
        names = {_variable(gold), _variable(given)} - {None}
        return len(names) < 2 and bool(region == other)
    if isinstance(gold, Chain) and isinstance(given, Chain):
        return _same_relation(gold, given)
    if (gold_value is not None and value is None) or isinstance(gold, Chain) or isinstance(given, Chain):
        return isinstance(given, Items) and isinstance(gold_value, Items) and same_value(gold_value, given)
    return same_value(gold, given)


def same_value(gold: Node, given: Node) -> bool:
    """Compare answers without relations."""
    match gold, given:
        case Value(), Value():
            return _same_number(gold, given)
        case Based(), Based():
            return (gold.number, gold.base) == (given.number, given.base)
        case Based(digits=digits), Value(expression):  # the base may be left out, as a unit may
            return str(expression) == digits
        case Value(expression), Based(number):
            return bool(expression == number)
        case Items(), Items():
            return _same_items(gold, given)
        case Items("{}", (Value() as only,)), _:
            return same_answer(only, given)
        case _, Items("{}", (Value() as only,)):
            return same_answer(gold, only)
        case Grid(rows), Grid(others):
            return [len(r) for r in rows] == [len(r) for r in others] and all(
                _same_number(a, b)
                for row, other in zip(rows, others, strict=True)
                for a, b in zip(row, other, strict=True)
            )
        case Ratio(parts), Ratio(others):
            return len(parts) == len(others) and all(
                same_expression(a.expression * others[0].expression, b.expression * parts[0].expression)
                for a, b in zip(parts, others, strict=True)
            )
        case (Ratio((top, bottom)), Value() as value) | (Value() as value, Ratio((top, bottom))):
            return bottom.expression != 0 and same_expression(
                top.expression / bottom.expression, value.expression
            )
    region = _region(gold)
    other = None if region is None else _region(given)
    return other is not None and bool(region == other)


# ---- numbers -----------------------------------------------------------------------------------------


def _same_number(gold: Value, given: Value) -> bool:
    wanted, found = gold.expression, given.expression
    if gold.percent == given.percent:
        return _same_or_rounded(gold, given)
    plain = replace(gold if gold.percent else given, percent=False)
    hundredth = Value(plain.expression / 100)
    if gold.percent:
        return _same_or_rounded(plain, given) or same_expression(hundredth.expression, found)
    return same_expression(wanted, hundredth.expression) or bool(
        wanted.is_number and wanted.is_real and abs(wanted) > 1 and same_expression(wanted, plain.expression)
    )


def _same_or_rounded(gold: Value, given: Value) -> bool:
    if same_expression(gold.expression, _constant_of_integration(gold.expression, given.expression)):
        return True
    for decimal, exact in ((given, gold), (gold, given)):
        finer = not exact.places or exact.places > decimal.places
        if min(decimal.places, decimal.digits) >= ROUNDED and finer and exact.expression.is_number:
            return rounded(exact.expression, decimal.expression, decimal.places)
    return False


def _constant_of_integration(gold: Any, given: Any) -> Any:
    capital, small = symbol("C"), symbol("c")
    if (
        gold.is_Add
        and capital in gold.args
        and small in given.free_symbols
        and small not in gold.free_symbols
    ):
        return given.subs(small, capital)
    return given


# ---- tuples, lists and sets ---------------------------------------------------------------------------


def _same_items(gold: Items, given: Items) -> bool:
    ordered = {gold.brackets, given.brackets} - {"", "{}"}
    if (
        len(ordered) == 2
        or len(gold.items) != len(given.items)
        or (ordered and "{}" in (gold.brackets, given.brackets))
    ):
        return False
    return _each(gold.items, given.items) if ordered else _in_any_order(gold.items, given.items)


def _each(gold: Sequence[Node], given: Sequence[Node]) -> bool:
    return all(same_answer(a, b) for a, b in zip(gold, given, strict=True))


def _in_any_order(gold: Sequence[Node], given: Sequence[Node]) -> bool:
    left = list(given)
    for item in gold:
        at = next((n for n, other in enumerate(left) if same_answer(item, other)), None)
        if at is None:
            return False
        left.pop(at)
    return True


def _is_tuple(node: Node) -> bool:
    return isinstance(node, Items) and node.brackets in ("()", "[]", "(]", "[)")


def _plus_minus(node: Node) -> Node:
    r"""`2 \pm \sqrt{3}` as two values."""
    if isinstance(node, Items):
        parts = [_plus_minus(item) for item in node.items]
        if node.brackets in ("", "{}"):  # `\{\pm 1, \pm 2\}`
            parts = [
                q for p in parts for q in (p.items if isinstance(p, Items) and p.brackets == "" else (p,))
            ]
        return Items(node.brackets, tuple(parts))
    if isinstance(node, Value) and PLUS_MINUS in node.expression.free_symbols:
        return Items("", tuple(Value(node.expression.subs(PLUS_MINUS, sign)) for sign in (1, -1)))
    if isinstance(node, Chain) and len(node.sides) == 2 and isinstance(node.sides[1], Value):
        right = _plus_minus(node.sides[1])
        if isinstance(right, Items):
            return Items("", tuple(replace(node, sides=(node.sides[0], value)) for value in right.items))
    return node


# ---- equations and inequalities ------------------------------------------------------------------------


def _read_relations(node: Node) -> Node:
    """`x = 1, x = 2` as the list of values, `x = 1, y = 2` as the pair, `(x, y) = (1, 2)` as the pair."""
    if not (isinstance(node, Items) and node.brackets in ("", "{}")):
        return node
    named = [_named(item) for item in node.items]
    names = [name for name, _ in named]
    values = [value for _, value in named]
    if names[0] is None or None in values:
        return node
    if set(names[1:]) <= {names[0], None}:
        return Items(node.brackets, tuple(v for v in values if v is not None))
    if None not in names and len(set(names)) == len(names):
        ordered = sorted(zip(map(str, names), values, strict=True), key=lambda pair: pair[0])
        return Items("()", tuple(value for _, value in ordered if value is not None))
    return node


def _roots(node: Items) -> Items:
    """`x_1 = 3, x_2 = 5` as the values in any order."""
    named = [_named(item) for item in node.items]
    letters = {name.partition("_")[0] for name, _ in named if name and "_" in name}
    if (
        node.brackets == ""
        and len(letters) == 1
        and all(name and "_" in name and value is not None for name, value in named)
    ):
        return Items("", tuple(value for _, value in named if value is not None))
    return node


def _named(node: Node) -> tuple[str | None, Node | None]:
    """The variable and the value of `x = value`; the value alone of what is no relation; else two Nones."""
    if not isinstance(node, Chain):
        return None, node
    if node.modulus is not None or set(node.relations) - {"=", "approx", "in"}:
        return None, None
    sides = [side for side in node.sides if side is not None]
    if len(sides) != len(node.sides):
        return None, None
    name = _variable_name(sides[0])
    values = sides[1:] if name else sides
    if not name and len(sides) == 2 and (name := _variable_name(sides[1])) and not variables(sides[0]):
        return name, sides[0]
    if name and name in variables(values[0]):
        return None, None
    if len(values) > 1 and not _true_chain(values, node.relations[-len(values) + 1 :]):
        return None, None
    return name, values[0] if values else None


def _variable_name(side: Node) -> str | None:
    match side:
        case Name(text):
            return text
        case Value(expression) if expression.is_Symbol and expression != PLUS_MINUS:
            return str(expression.name)
        case Items("()", items) if all(isinstance(i, Value) and i.expression.is_Symbol for i in items):
            return "(" + ",".join(str(i.expression.name) for i in items if isinstance(i, Value)) + ")"
    return None


def _true_chain(values: Sequence[Node], relations: Sequence[str]) -> bool:
    """Numbers that are equal, or that the last is rounded from: `1/2 = 0.5`, `\\pi \\approx 3.14`."""
    if not all(isinstance(v, Value) and not v.expression.free_symbols for v in values):
        return False
    for (a, b), relation in zip(pairwise(values), relations, strict=True):
        assert isinstance(a, Value)
        assert isinstance(b, Value)
        if relation == "in" or not (
            _same_number(a, b) or (relation == "approx" and rounded(a.expression, b.expression, b.places))
        ):
            return False
    return True


def _same_relation(gold: Chain, given: Chain) -> bool:
    a, b = _difference(gold), _difference(given)
    if a is None or b is None:
        return (
            len(gold.sides) == len(given.sides)
            and gold.relations == given.relations
            and all(
                (x is None and y is None) or (x is not None and y is not None and same_answer(x, y))
                for x, y in zip(gold.sides, given.sides, strict=True)
            )
        )
    (relation, left), (other, right) = a, b
    if relation != other or not proportional(left, right):
        return False
    return relation in ("=", "ne") or _positive_ratio(left, right)


def _difference(chain: Chain) -> tuple[str, Any] | None:
    """`left > right` as (`>`, left - right); `<` is turned round."""
    if len(chain.sides) != 2 or not all(isinstance(side, Value) and not side.percent for side in chain.sides):
        return None
    left, right = (side.expression for side in chain.sides if isinstance(side, Value))
    relation = chain.relations[0]
    if relation in ("<", "le"):
        return _FLIPPED[relation], right - left
    return (relation, left - right) if relation in ("=", ">", "ge", "ne") else None


def _positive_ratio(a: Any, b: Any) -> bool:
    point = {s: sympy.Rational(1234567, 1000003) for s in a.free_symbols}
    return bool((a.evalf(30, subs=point) / b.evalf(30, subs=point)) > 0)


def _congruent(gold: Chain, given: Chain) -> bool:
    r"""`x \equiv 3 \pmod 7`; the left side may be left out."""
    if not (gold.modulus and given.modulus and same_value(gold.modulus, given.modulus)):
        return False
    a, b = gold.sides[-1], given.sides[-1]
    if len(gold.sides) == len(given.sides) == 2 and not same_answer(gold.sides[0], given.sides[0]):  # type: ignore[arg-type]
        return False
    if not isinstance(a, Value) or not isinstance(b, Value) or max(len(gold.sides), len(given.sides)) > 2:
        return False
    difference, modulus = a.expression - b.expression, gold.modulus.expression
    if difference.is_Integer and modulus.is_Integer and modulus != 0:
        return bool(difference % modulus == 0)
    return same_expression(a.expression, b.expression)


# ---- sets of numbers -----------------------------------------------------------------------------------


def _variable(node: Node) -> str | None:
    """The variable of an inequality; None where the answer is a set."""
    names = variables(node) if isinstance(node, Chain) else frozenset()
    return min(names) if names else None


def _region(node: Node | None) -> Any:
    """An interval, a union of intervals or an inequality as a sympy set; None for anything else."""
    try:
        return _as_set(node)
    except (TypeError, ValueError, NotImplementedError):
        return None


def _as_set(node: Node | None) -> Any:
    match node:
        case Items(brackets, (Value(low), Value(high))) if len(brackets) == 2 and brackets != "{}":
            if (
                low.is_extended_real
                and high.is_extended_real
                and low.is_number
                and high.is_number
                and low < high
            ):
                return sympy.Interval(low, high, brackets[0] == "(", brackets[1] == ")")
        case Items("{}", items) if all(isinstance(i, Value) and i.expression.is_number for i in items):
            return sympy.FiniteSet(*(i.expression for i in items if isinstance(i, Value)))
        case Items("", items) if all(
            isinstance(i, Chain) and set(i.relations) & {"<", ">", "le", "ge"} for i in items
        ):
            return _combined(sympy.Union, [_as_set(item) for item in items])
        case Region(operation, parts):
            if not parts:
                return _SETS.get(operation)
            combine = {"cup": sympy.Union, "cap": sympy.Intersection, "setminus": sympy.Complement}[operation]
            return _combined(combine, [_as_set(part) for part in parts])
        case Chain((left, right), ("in",)) if left is not None and right is not None and _variable_name(left):
            return _as_set(right)
        case Chain(sides, relations, None):
            return _solutions(sides, relations)
    return None


def _combined(combine: Callable[..., Any], parts: Sequence[Any]) -> Any:
    return None if any(part is None for part in parts) else reduce(combine, parts)


def _solutions(sides: Sequence[Node | None], relations: Sequence[str]) -> Any:
    """The numbers that satisfy an inequality in one variable."""
    if not all(isinstance(side, Value) and not side.percent for side in sides):
        return None
    if not set(relations) <= {"<", ">", "le", "ge", "ne"}:
        return None
    expressions = [side.expression for side in sides if isinstance(side, Value)]
    if len(frozenset().union(*(e.free_symbols for e in expressions))) != 1:
        return None
    pairs = zip(pairwise(expressions), relations, strict=True)
    return reduce(sympy.Intersection, [_solution(a, relation, b) for (a, b), relation in pairs])


def _solution(left: Any, relation: str, right: Any) -> Any:
    """The numbers that satisfy one inequality; at once where one side is the variable itself."""
    if right.is_Symbol:
        left, relation, right = right, _FLIPPED.get(relation, relation), left
    if left.is_Symbol and right.is_number and relation in _BOUNDED:
        low, high, low_open, high_open = _BOUNDED[relation]
        return sympy.Interval(
            right if low is None else low, right if high is None else high, low_open, high_open
        )
    compare = {"<": sympy.Lt, ">": sympy.Gt, "le": sympy.Le, "ge": sympy.Ge, "ne": sympy.Ne}
    held = compare[relation](left, right)
    return S.Reals if held == sympy.true else S.EmptySet if held == sympy.false else held.as_set()
