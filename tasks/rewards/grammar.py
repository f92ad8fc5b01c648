r"""Read an expression from its tokens: all of it, or `Unreadable`.

    answer   chain (("," | ";" | or) chain)*
    chain    [relation] sets (relation sets)* [\pmod m]     relations: = < > \le \ge \ne \approx \equiv \in
    sets     sum ((\cup | \cap | \setminus) sum)*
    sum      [+ - \pm] term ((+ - \pm) term)*
    term     power ((* /) power | power)*                   side by side: a product; `3 1/2`, `3\frac12`: a
    sum
    power    primary (! ^ degree)*

Values are sympy expressions: decimals are exact rationals, variables are real. Only for isolated processes,
because
arithmetic on what a model wrote can take any time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy
from sympy import I, Integer, Rational, S, Symbol, oo, pi

from tasks.rewards.phrases import Unreadable
from tasks.rewards.tokens import Token

MOST_BITS, MOST_FACTORIAL = 200_000, 5_000
"""Powers and factorials beyond are not worked out."""
PLUS_MINUS = Symbol("±")


@dataclass(frozen=True)
class Value:
    expression: Any
    places: int = 0
    """Decimals and significant digits of a value that is one decimal number; 0 where it is anything else."""
    digits: int = 0
    percent: bool = False


@dataclass(frozen=True)
class Items:
    brackets: str
    """`()`, `[]`, `(]`, `[)`, `{}` (a set), or nothing for a bare list."""
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Chain:
    """Sides with a relation before each but the first; a first side of None where the text begins with a
    relation."""

    sides: tuple[Node | None, ...]
    relations: tuple[str, ...]
    modulus: Value | None = None


@dataclass(frozen=True)
class Name:
    """`f(x)` before an equals sign."""

    text: str


@dataclass(frozen=True)
class Region:
    operation: str
    """`R`, `Z` and the like, `empty`, `cup`, `cap` or `setminus`."""
    parts: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Grid:
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Based:
    number: int
    base: int
    digits: str


@dataclass(frozen=True)
class Ratio:
    parts: tuple[Value, ...]


Node = Value | Items | Chain | Name | Region | Grid | Based | Ratio

_RELATIONS = frozenset({"=", "<", ">", "le", "ge", "ne", "approx", "equiv", "in"})
_SETS = frozenset({"cup", "cap", "setminus"})
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(sympy, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos",
    "atan")},
    **{name: getattr(sympy, name) for name in ("sinh", "cosh", "tanh", "exp", "gcd", "lcm", "floor")},
    "ln": sympy.log, "log": lambda x, base=10: sympy.log(x) / sympy.log(base), "abs": sympy.Abs,
    "max": sympy.Max, "min": sympy.Min,
    "ceil": sympy.ceiling, "sqrt": sympy.sqrt, "cbrt": lambda x: sympy.root(x, 3),
}  # fmt: skip
_TRIGONOMETRIC = frozenset({"sin", "cos", "tan"})


def read_expression(tokens: Sequence[Token]) -> Node:
    """Read all tokens. Raises Unreadable."""
    if based := _based([token.text for token in tokens]):
        return based
    reader = _Reader(list(tokens))
    try:
        return reader.answer()
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as failure:
        raise failure if isinstance(failure, Unreadable) else Unreadable(str(failure)[:100]) from None


def _based(texts: list[str]) -> Based | None:
    """`1010_2`, `(243)_5`, `FF_{16}`."""
    match = (
        re.fullmatch(r"(-?)\(?([0-9A-Z]{2,})\)?_\{?(\d{1,2})\}?", "".join(texts)) if len(texts) < 80 else None
    )
    if not match or not 2 <= int(match[3]) <= 36:
        return None
    try:
        return Based(int(match[1] + match[2], int(match[3])), int(match[3]), match[1] + match[2].lstrip("0"))
    except ValueError:
        return None


class _Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.at = tokens, 0
        self.bars = 0
        self.reversed = False
        """Within `]0, 1[`, where an opening bracket closes."""

    # ---- tokens ----

    @property
    def text(self) -> str:
        """The next sign or command; empty before any other token and at the end."""
        if self.at < len(self.tokens) and self.tokens[self.at].kind in ("sign", "command", "or"):
            return self.tokens[self.at].text
        return ""

    @property
    def kind(self) -> str:
        return self.tokens[self.at].kind if self.at < len(self.tokens) else "end"

    def take(self) -> Token:
        if self.at >= len(self.tokens):
            raise Unreadable("an unfinished expression")
        self.at += 1
        return self.tokens[self.at - 1]

    def skip(self, *texts: str) -> bool:
        found = self.text != "" and self.text in texts
        self.at += found
        return found

    def expect(self, text: str) -> None:
        if not self.skip(text):
            raise Unreadable(f"{text!r} is missing")

    # ---- lists and relations ----

    def answer(self) -> Node:
        node = self.listed()
        if self.at < len(self.tokens):
            raise Unreadable(f"{self.tokens[self.at].text[:20]!r} is not understood")
        return node

    def listed(self) -> Node:
        """One chain, or several with commas between them."""
        items = [self.chain()]
        while self.skip(",", ";"):
            self.skip(",")  # `1, 2, and 3`
            items.append(self.chain())
        return items[0] if len(items) == 1 else Items("", tuple(items))

    def chain(self) -> Node:
        sides: list[Node | None] = [None if self.text in _RELATIONS else self.name() or self.sets()]
        relations = []
        while self.text in _RELATIONS:
            relations.append(self.take().text)
            sides.append(self.sets())
        if self.skip("pmod"):
            return Chain(tuple(sides), tuple(relations), Value(self.value_of(self.argument())))
        if sides[0] is None and relations[0] in ("=", "approx") and len(sides) == 2:
            sides, relations = sides[1:], []
        if not relations and self.text == ":":
            return self.ratio(sides[0])
        return Chain(tuple(sides), tuple(relations)) if relations else sides[0]  # type: ignore[return-value]

    def ratio(self, first: Node | None) -> Ratio:
        parts = [first]
        while self.skip(":"):
            parts.append(self.sum())
        return Ratio(tuple(Value(self.value_of(part)) for part in parts))

    def name(self) -> Name | None:
        """`f(x)` or `P(A)` before an equals sign."""
        end = self.at + 1
        if self.kind != "letter" or end >= len(self.tokens) or self.tokens[end].text != "(":
            return None
        while end < len(self.tokens) and self.tokens[end].text != ")":
            end += 1
        if end + 1 >= len(self.tokens) or self.tokens[end + 1].text != "=":
            return None
        text = "".join(token.text for token in self.tokens[self.at : end + 1])
        self.at = end + 1
        return Name(text)

    def sets(self) -> Node:
        left = self.sum()
        while self.text in _SETS:
            left = Region(self.take().text, (left, self.sum()))
        return left

    # ---- arithmetic ----

    def value_of(self, node: Node | None) -> Any:
        if isinstance(node, Items) and node.brackets == "[]" and len(node.items) == 1:
            node = node.items[0]
        if not isinstance(node, Value) or node.percent:
            raise Unreadable("arithmetic with something that is no number")
        return node.expression

    def sum(self) -> Node:
        sign = self.sign()
        left = self.term()
        if sign is not None:
            left = (
                replace(left, expression=sign * left.expression)
                if isinstance(left, Value)
                else Value(sign * self.value_of(left))
            )
        while self.text in ("+", "-", "pm", "mp"):
            sign = self.sign()
            left = Value(self.value_of(left) + sign * self.value_of(self.term()))
        if self.skip("%"):
            left = (
                replace(left, percent=True)
                if isinstance(left, Value)
                else Value(self.value_of(left), percent=True)
            )
        return left

    def sign(self) -> Any:
        """The product of the signs that stand here; None where there is none."""
        sign: Any = None
        while self.text in ("+", "-", "pm", "mp"):
            factor = {"+": S.One, "-": S.NegativeOne, "pm": PLUS_MINUS, "mp": -PLUS_MINUS}[self.take().text]
            sign = factor if sign is None else sign * factor
        return sign

    def term(self) -> Node:
        left = self.power()
        while True:
            if self.skip("*"):
                left = Value(self.value_of(left) * self.signed_power())
            elif self.skip("/"):
                number = self.kind == "number"
                divisor = self.signed_power()
                while not number and self.is_factor() and self.kind != "number":
                    divisor *= self.value_of(self.power())
                left = Value(self.value_of(left) / _not_zero(divisor))
            elif self.is_factor():
                if self.kind in ("number", "repeating"):
                    raise Unreadable("a number behind another value")
                left = Value(self.value_of(left) * self.value_of(self.power()))
            else:
                return left

    def signed_power(self) -> Any:
        sign = self.sign()
        value = self.value_of(self.power())
        return value if sign is None else sign * value

    def is_factor(self) -> bool:
        if self.kind in ("number", "repeating", "letter", "name", "constant", "function"):
            return True
        if self.text in ("(", "{", "frac", "vulgar", "sqrt", "cbrt", "binom", "lfloor", "lceil"):
            return True
        return (self.text == "|" and not self.bars) or (self.text == "[" and not self.reversed)

    def power(self) -> Node:
        node = self.primary()
        while True:
            if self.skip("!"):
                node = Value(_factorial(self.value_of(node), twice=self.skip("!")))
            elif self.skip("deg"):
                node = Value(self.value_of(node) * pi / 180)
            elif self.skip("^"):
                node = Value(_power(self.value_of(node), self.exponent()))
            else:
                return node

    def exponent(self) -> Any:
        sign = self.sign()
        base = self.value_of(self.primary())
        if self.skip("^"):
            base = _power(base, self.exponent())
        return base if sign is None else sign * base

    def argument(self, digits: bool = False) -> Node:
        """What a command applies to: a group, or the next token (the next digit where `digits`)."""
        token = self.tokens[self.at] if self.at < len(self.tokens) else self.take()
        if digits and token.kind == "number" and len(token.text) > 1:
            self.tokens[self.at] = replace(token, text=token.text[1:], spaced=False)
            return Value(Integer(token.text[0]))
        return self.primary()

    def primary(self) -> Node:
        kind = self.kind
        token = self.take()
        match kind:
            case "number":
                return self.mixed(token)
            case "repeating":
                return Value(_repeating(token.text))
            case "letter" | "name":
                return self.letter(token)
            case "constant":
                return Value(pi if token.text == "pi" else oo)
            case "function":
                return Value(self.call(token.text))
            case "sign" | "command" | "or":
                return self.bracket_or_command(token.text)
        raise Unreadable(f"{token.text[:20]!r} is not understood")

    def mixed(self, token: Token) -> Value:
        """A number; with a fraction behind it, their sum."""
        value = _number(token.text)
        if not token.text.isdigit():
            return value
        rest = self.tokens[self.at : self.at + 7]
        texts = [t.text for t in rest]
        if len(rest) >= 3 and rest[0].spaced and texts[1] == "/" and (texts[0] + texts[2]).isdigit():
            self.at += 3
            return Value(value.expression + _fraction(texts[0], texts[2]))
        if texts[:1] in (["frac"], ["vulgar"]):
            match = re.match(r"(?:frac|vulgar)(?:\{(\d+)\}\{(\d+)\}|(\d)(\d))(?!\d)", "".join(texts))
            if match and (top := match[1] or match[3]) and int(top) < int(bottom := match[2] or match[4]):
                self.at += 7 if match[1] else 2
                return Value(value.expression + _fraction(top, bottom))
        return value

    def letter(self, token: Token) -> Value:
        name = token.text
        if name == "C" and self.text == "(":
            start = self.at
            inner = self.group(self.take().text)
            if isinstance(inner, Items) and len(inner.items) == 2:
                return Value(_binomial(*(self.value_of(item) for item in inner.items)))
            self.at = start
        if name == "Gamma" and self.text == "(":
            return Value(sympy.gamma(self.value_of(self.primary())))
        if self.skip("_"):
            if self.skip("{"):
                parts = []
                while self.text != "}":
                    parts.append(self.take().text)
                self.expect("}")
            else:
                parts = [self.take().text]
            name += "_" + "".join(parts)
        while self.skip("'"):
            name += "'"
        if name in ("e", "i"):
            return Value(sympy.E if name == "e" else I)
        return Value(symbol(name))

    def call(self, name: str) -> Any:
        """A function and what it applies to; `\\sin^2 x`, `\\log_2 3`, `\\tan^{-1} x` too."""
        base = exponent = None
        if (
            name == "log"
            and self.kind == "number"
            and not self.tokens[self.at].spaced
            and [t.text for t in self.tokens[self.at + 1 : self.at + 2]] == ["("]
        ):
            base = _number(self.take().text).expression  # `log2(8)`
        while self.text in ("_", "^"):
            if self.take().text == "_":
                base = self.value_of(self.argument())
            else:
                exponent = self.exponent()
        if self.text == "(":
            inner = self.primary()
            arguments = inner.items if isinstance(inner, Items) else (inner,)
            values = [self.value_of(argument) for argument in arguments]
        else:
            values = [self.signed_power() if self.text in ("+", "-") else self.value_of(self.power())]
            while (
                self.is_factor()
                and self.kind not in ("function", "number", "repeating")
                and self.text not in ("(", "[", "|")
            ):
                values[0] *= self.value_of(self.power())
        if exponent == -1 and name in _TRIGONOMETRIC:
            name, exponent = f"a{name}", None
        if name == "factorial":
            value = _factorial(values[0])
        elif name == "binom":
            value = _binomial(*values)
        elif base is not None and name != "log":
            raise Unreadable(f"a subscript of {name}")
        else:
            value = _FUNCTIONS[name](*values, *([base] if base is not None else []))
        return value if exponent is None else value**exponent

    # ---- brackets and commands ----

    def bracket_or_command(self, text: str) -> Node:
        match text:
            case "(" | "[" | "\\{" | "{" | "]":
                return self.group(text)
            case "|":
                self.bars += 1
                value = self.value_of(self.sum())
                self.bars -= 1
                self.expect("|")
                return Value(sympy.Abs(value))
            case "lfloor" | "lceil":
                value = self.value_of(self.sum())
                self.expect("r" + text[1:])
                return Value(sympy.floor(value) if text == "lfloor" else sympy.ceiling(value))
            case "frac" | "vulgar":
                top = self.value_of(self.argument(digits=True))
                return Value(top / _not_zero(self.value_of(self.argument(digits=True))))
            case "binom":
                return Value(
                    _binomial(
                        self.value_of(self.argument(digits=True)), self.value_of(self.argument(digits=True))
                    )
                )
            case "sqrt" | "cbrt":
                return Value(self.root(3 if text == "cbrt" else 2))
            case "emptyset":
                return Region("empty")
            case r"\begin{pmatrix}" | r"\begin{bmatrix}" | r"\begin{matrix}":
                return self.matrix(text.replace("begin", "end"))
        if text.startswith("set "):
            return Region(text[4:])
        raise Unreadable(f"{text[:20]!r} is not understood")

    def root(self, degree: Any) -> Any:
        if self.text == "[":
            self.take()
            degree = self.value_of(self.sum())
            self.expect("]")
        return sympy.root(self.value_of(self.argument()), degree)

    def group(self, opening: str) -> Node:
        braces = opening in ("{", "\\{")
        if opening == "\\{" and self.skip("\\}"):
            return Region("empty")
        kept = self.bars, self.reversed
        self.bars, self.reversed = int(opening == "\\{"), opening == "]"
        node = self.listed()
        if opening == "\\{" and self.text in ("|", ":"):
            self.take()
            node = self.listed()  # `\{x \mid x > 3\}`
            self.expect("\\}")
            self.bars, self.reversed = kept
            return node
        self.bars, self.reversed = kept
        if opening == "{" and self.skip("choose"):
            node = Value(_binomial(self.value_of(node), self.value_of(self.sum())))
        closing = self.take().text
        if closing not in {"(": ")]", "[": ")][", "]": "[]", "{": "}", "\\{": "\\}"}[opening]:
            raise Unreadable(f"{opening!r} is closed by {closing[:20]!r}")
        items = node.items if isinstance(node, Items) and node.brackets == "" else (node,)
        if opening == "\\{" or (braces and len(items) > 1):
            return Items("{}", tuple(items))
        if len(items) == 1 and (opening in "({" and closing in ")}"):
            return node
        left = "(" if opening in "(]" else "["
        right = ")" if closing == ")" or (closing == "[") else "]"
        return Items(left + right, tuple(items))

    def matrix(self, end: str) -> Grid:
        rows: list[list[Value]] = [[]]
        while not self.skip(end):
            if self.skip("\\"):
                rows.append([])
            elif not self.skip("&"):
                rows[-1].append(Value(self.value_of(self.sum())))
                if self.text not in ("&", "\\", end):
                    raise Unreadable("a cell of a matrix is not understood")
        rows = [row for row in rows if row]
        if not rows or len({len(row) for row in rows}) != 1:
            raise Unreadable("a matrix with rows of different length")
        return Grid(tuple(tuple(row) for row in rows))


def symbol(name: str) -> Any:
    return Symbol(name, real=True)


def _number(text: str) -> Value:
    mantissa, _, exponent = text.partition("e")
    if len(exponent) > 5 or (exponent and abs(int(exponent)) > 9_999):
        raise Unreadable("an exponent too large to work out")
    whole, point, decimals = mantissa.partition(".")
    value = Rational(int(whole + decimals or "0"), 10 ** len(decimals))
    if exponent:
        value *= Integer(10) ** int(exponent)
    places = max(0, len(decimals) - int(exponent or 0))
    digits = len((whole + decimals).lstrip("0"))
    return Value(value, places, digits) if point or exponent else Value(value)


def _repeating(text: str) -> Any:
    whole, _, rest = text.partition(".")
    fixed, _, tail = rest.partition("\\")
    digits = re.sub(r"\D", "", tail)
    scale = 10 ** len(fixed)
    return Rational(int((whole or "0") + fixed), scale) + Rational(
        int(digits), scale * (10 ** len(digits) - 1)
    )


def _fraction(top: str, bottom: str) -> Any:
    return Rational(int(top), int(_not_zero(Integer(bottom))))


def _not_zero(value: Any) -> Any:
    if value == 0:
        raise Unreadable("a division by zero")
    return value


def _power(base: Any, exponent: Any) -> Any:
    if base.is_Rational and exponent.is_Rational:
        bits = max(abs(base.p), base.q).bit_length() * abs(exponent.p) / exponent.q
        if bits > MOST_BITS:
            raise Unreadable("a power too large to work out")
    return base**exponent


def _factorial(value: Any, twice: bool = False) -> Any:
    if value.is_number and not (value.is_Integer and 0 <= value <= MOST_FACTORIAL):
        raise Unreadable("a factorial that is not worked out")
    return sympy.factorial2(value) if twice else sympy.factorial(value)


def _binomial(top: Any, bottom: Any) -> Any:
    if (
        top.is_number
        and bottom.is_number
        and not (top.is_Integer and bottom.is_Integer and abs(top) <= MOST_FACTORIAL)
    ):
        raise Unreadable("a binomial coefficient that is not worked out")
    return sympy.binomial(top, bottom)
