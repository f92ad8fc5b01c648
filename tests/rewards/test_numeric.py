"""Expressions told apart by their values: never otherwise than math-verify does."""

import random

import math_verify
import pytest

from tasks.rewards.numeric import plainly_equal
from tasks.rewards.verifiers.math import as_latex


def parsed(text: str) -> list:
    return math_verify.parse(as_latex(text), parsing_timeout=None)


def expression(chance: random.Random, depth: int) -> str:
    if depth == 0 or chance.random() < 0.2:
        return chance.choice(["2", "3", "7", "12", "x", "y", r"\pi", r"\frac{1}{3}", r"\sqrt{2}", "x^2"])
    a, b = expression(chance, depth - 1), expression(chance, depth - 1)
    forms = [f"{a}+{b}", f"{a}-{b}", f"({a})({b})", rf"\frac{{{a}}}{{{b}}}", rf"\sqrt{{{a}}}", f"({a})^2"]
    return chance.choice(forms)


def respelled(text: str, chance: random.Random) -> str:
    """The same value in another form, or nearly the same."""
    return chance.choice(
        [f"({text})", f"{text}+0", rf"\frac{{2({text})}}{{2}}", f"x+{text}-x", f"{text}+1",
         f"{text}+10^{{-9}}", rf"\frac{{{text}}}{{1.0}}", f"-({text})", f"{text}+\\frac{{1}}{{10^{{5}}}}"]
    )  # fmt: skip


def pairs(count: int) -> list[tuple[str, str]]:
    chance = random.Random(5)
    out = []
    for _ in range(count):
        gold = expression(chance, chance.randint(1, 3))
        out.append((gold, respelled(gold, chance) if chance.random() < 0.6 else expression(chance, 2)))
    return out


def test_what_is_decided_is_what_math_verify_says():
    decided = 0
    for gold, answer in pairs(300):
        expected, found = parsed(gold), parsed(answer)
        plain = plainly_equal(expected[0], found[0]) if expected and found else None
        if plain is not None:
            decided += 1
            assert plain == math_verify.verify(expected, found, timeout_seconds=None), (gold, answer)
    assert decided > 200


@pytest.mark.parametrize(
    ("gold", "answer", "plain"),
    [
        (r"2\sqrt{2}", r"\sqrt{7}", False), ("(x-1)(x+1)", "x^2-1", True),
        ("(x-1)(x+1)", "x^2-2", False), ("2x", "2y", False), (r"\frac{\pi}{2}", r"\pi/3", False),
    ],
)  # fmt: skip
def test_plain_ones(gold, answer, plain):
    assert plainly_equal(parsed(gold)[0], parsed(answer)[0]) is plain


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"2\sqrt{2}", r"\sqrt{8}"), ("x", "y"), ("0.5", "0.6"), (r"50\%", r"2x"), ("x=2", "x=3"),
        ("(1,2)", "(1,3)"), (r"\{1,2\}", r"\{1\}"),
        (r"\sin(x)", r"\cos(x)"), (r"\sqrt{x^2}", "x+0x"), (r"(1+\frac{1}{10^9})^{10^9}", "2x"), ("e", "2x"),
        (r"2+10^{-9}", "2"), (r"\sqrt{-2}", r"2\pi"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_math_verify(gold, answer):
    assert plainly_equal(parsed(gold)[0], parsed(answer)[0]) is None
