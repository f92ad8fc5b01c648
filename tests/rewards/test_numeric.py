"""Values of expressions told apart: quickly where floats can, exactly where they cannot."""

import random

import pytest
import sympy

from tasks.rewards.grammar import read_expression
from tasks.rewards.numeric import plainly_equal, proportional, rounded, same_expression
from tasks.rewards.tokens import tokens


def value(text: str):
    return read_expression(tokens(f"${text}$")).expression


def expression(chance: random.Random, depth: int) -> str:
    if depth == 0 or chance.random() < 0.2:
        return chance.choice(["2", "3", "7", "12", "x", "y", r"\pi", r"\frac{1}{3}", r"\sqrt{2}", "x^2"])
    a, b = expression(chance, depth - 1), expression(chance, depth - 1)
    forms = [
        f"({a})+({b})",
        f"({a})-({b})",
        f"({a})({b})",
        rf"\frac{{{a}}}{{{b}}}",
        rf"\sqrt{{{a}}}",
        f"({a})^2",
    ]
    return chance.choice(forms)


@pytest.mark.parametrize("seed", range(40))
def test_another_form_is_the_same_and_a_small_change_is_not(seed):
    chance = random.Random(seed)
    text = expression(chance, chance.randint(1, 3))
    try:
        gold = value(text)
    except ValueError:  # a division by zero
        return
    for same in (f"({text})", f"{text}+0", rf"\frac{{2({text})}}{{2}}", f"x+{text}-x"):
        assert same_expression(gold, value(same)), (text, same)
    for other in (
        f"{text}+1",
        f"{text}+10^{{-9}}",
        f"{text}+\\frac{{1}}{{10^{{50}}}}",
        f"{text}+\\frac{{x}}{{10^{{5}}}}",
    ):
        assert not same_expression(gold, value(other)), (text, other)


@pytest.mark.parametrize(
    ("gold", "answer", "plain"),
    [
        (r"2\sqrt{2}", r"\sqrt{7}", False), ("(x-1)(x+1)", "x^2-1", True),
        ("(x-1)(x+1)", "x^2-2", False), ("2x", "2y", False), (r"\frac{\pi}{2}", r"\pi/3", False), ("3^{-40}",
        "3^{-41}", False),
    ],
)  # fmt: skip
def test_plain_ones(gold, answer, plain):
    assert plainly_equal(value(gold), value(answer)) is plain


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\sin(x)", r"\cos(x)"), ("e", "2x"), (r"2\sqrt{2}+10^{-9}", r"2\sqrt{2}"), (r"\sqrt{-2}", r"2\pi"),
        (r"3^{-400}\pi", r"3^{-401}\pi"),
    ],
)  # fmt: skip
def test_what_floats_cannot_tell_is_told_apart_all_the_same(gold, answer):
    assert plainly_equal(value(gold), value(answer)) is None
    assert not same_expression(value(gold), value(answer))


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\sin^2 x+\cos^2 x", "1"), (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"), (r"\ln 8", r"3\ln 2"), ("|x|",
        r"\sqrt{x^2}"), ("n!", r"n(n-1)!"),
        (r"e^{i\pi}", "-1"), (r"e^{-400}\cdot e", "e^{-399}"),
    ],
)  # fmt: skip
def test_equal_by_an_identity(gold, answer):
    assert same_expression(value(gold), value(answer))


def test_equations_are_compared_up_to_a_factor():
    assert proportional(value("2x+2y-10"), value("x+y-5"))
    assert not proportional(value("2x+2y-10"), value("x+2y-5"))
    assert not proportional(value("x"), value("x^2"))


def test_a_decimal_is_a_rounded_value_to_its_last_place():
    third = sympy.Rational(1, 3)
    assert rounded(third, sympy.Rational(333333, 10**6), 6)
    assert not rounded(third, sympy.Rational(333334, 10**6), 6)
