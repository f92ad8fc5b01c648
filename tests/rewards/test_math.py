"""Math verdicts: tables by kind of answer, and agreement with math-verify wherever it is not asked."""

import random
from fractions import Fraction

import math_verify
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rewards.plain_math import decide, normalise, screen
from tasks.rewards.verifier import Deferred, judge_or_defer
from tasks.rewards.verifiers.math import as_latex
from tests.rewards.rows import completion, problem, verdict

CORRECT = {
    "integers": [("12", "12"), ("12", "+12"), ("-3", "- 3"), ("12", "012"), ("12", "12.")],
    "decimals": [("12", "12.0"), ("0.5", ".5"), ("0.3", "0.1+0.2")],
    "fractions": [
        ("1/2", "2/4"), (r"\frac{1}{2}", "0.5"),
        (r"\dfrac{1}{2}", "1/2"), (r"3\frac{1}{2}", "3.5"),
    ],
    "units": [
        ("72", r"72\text{ km}"), ("72", "72 km"), ("72km", "72"),
        (r"90^\circ", "90"), ("5", r"\$5"), (r"\$5", "5"),
    ],
    "percent": [(r"50\%", "50%"), ("50%", "50"), ("0.5", "50%"), ("50 %", r"50\%")],
    "thousands": [
        ("1000", "1,000"), ("1,234", "1234"), ("1000", r"1{,}000"),
        ("1000", r"1\,000"), ("1234567", "1,234,567"),
    ],
    "radicals": [(r"\sqrt{8}", r"2\sqrt{2}"), (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}")],
    "polynomials": [("x^2-1", "(x-1)(x+1)"), ("x^2+2x+1", "(x+1)^2")],
    "powers": [("1024", "2^{10}"), ("120", "5!")],
    "intervals": [
        ("[1,2)", "[1, 2)"), (r"(-\infty,3]", r"(-\infty, 3]"),
        (r"[1,2]\cup[3,4]", r"[3,4]\cup[1,2]"),
    ],
    "sets": [(r"\{1,2,3\}", r"\{3, 2, 1\}"), ("1,2", "2,1")],
    "tuples": [("(1,2,3)", "(1, 2, 3)"), ("(3,4)", r"\left(3, 4\right)")],
    "matrices": [(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1 & 2\\ 3 & 4\end{bmatrix}")],
    "equations": [("x=3", "3"), ("3", "x = 3"), ("y=2x+1", "y = 1+2x"), ("2x+y=3", "y=3-2x")],
    "inequalities": [("x>3", "3<x")],
    "complex": [("1+i", "i+1")],
    "full width": [
        ("12", "１２"), ("0.5", "０．５"), ("（1，2）", "(1,2)"),
        ("-3", "－３"), ("-3", "−3"), ("12", "＋12"),
    ],
    "Chinese": [("12", "答案是12。"), ("12", "12。"), ("12元", "12"), ("12", "12个苹果")],
    "dollars": [("12", "$12$"), ("12", r"\text{12}")],
}  # fmt: skip
NOT_CORRECT = {
    "unfinished": [("5", "5 +"), ("5", "5 ="), ("5", "5^"), ("5", "5 -")],
    "numbers": [
        ("12", "13"),
        ("12", "-12"),
        ("1/2", "1/3"),
        ("0.333", "1/3"),
        ("3", "3.0000001"),
        ("100", "10 0"),
    ],
    "guesses": [("12", "12 or 13"), ("12", "12, 13"), ("12", "x=12, y=3")],
    "words": [("12", "banana"), ("12", "..."), ("12", "答案")],
    "intervals": [("[1,2)", "(1,2)"), ("(1,2)", "(1, 2]"), ("[1,2]", "[1,3]")],
    "sets": [(r"\{1,2,3\}", r"\{1,2\}")],
    "tuples": [("(1,2)", "(2,1)")],
    "matrices": [(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\4&3\end{pmatrix}")],
    "equations": [("x=3", "y=3"), ("y=2x+1", "y=2x+2"), ("x>3", "x>=3")],
    "near constants": [(r"\pi", "3.14"), (r"\sqrt{2}", "1.414")],
    "powers": [("5", "5!"), ("120", "6!")],
}


@pytest.mark.parametrize("kind", CORRECT)
def test_equal_answers(pool, kind):
    found = {pair: verdict(pool, problem(answer=pair[0]), pair[1]) for pair in CORRECT[kind]}
    assert found == dict.fromkeys(found, "correct")


@pytest.mark.parametrize("kind", NOT_CORRECT)
def test_different_answers(pool, kind):
    found = {pair: verdict(pool, problem(answer=pair[0]), pair[1]) for pair in NOT_CORRECT[kind]}
    assert not {pair for pair, v in found.items() if v not in ("wrong", "unparseable")}


def test_a_gold_answer_that_nothing_can_read_is_an_error_never_a_reward(pool):
    assert verdict(pool, problem(answer="..."), "12") == "error"
    assert verdict(pool, problem(answer="9^{9^{9^9}}"), "12") == "error"


def test_no_final_answer_is_unparseable(pool):
    judged = pool.verify([problem(answer="12")], [r"<think> \boxed{12} </think> I do not know"])[0]
    assert (judged.verdict.value, judged.extracted) == ("unparseable", None)


PATHOLOGICAL = [
    "9^{9^{9^9}}", "(10^{10^7})!", "(" * 10_000 + "1" + ")" * 10_000, "{" * 50 + "1" + "}" * 50,
    "12345678901234567890!", "10**10**7**7", "(9^{9})!", "1" * 3_000,
]  # fmt: skip


@pytest.mark.parametrize("answer", PATHOLOGICAL, ids=lambda a: a[:20])
def test_what_would_hang_is_refused_before_sympy_sees_it(answer):
    judged = judge_or_defer(problem(answer="1"), completion(answer))
    assert not isinstance(judged, Deferred)
    assert judged.verdict.value == "unparseable"


@pytest.mark.parametrize(
    "answer", [r"\mathbb{R}^+", "x^{10}", "10!", r"\frac{1}{2^{100}}", "(((x)))", "2^{3^2}"]
)
def test_what_is_harmless_passes_the_screen(answer):
    assert screen(answer) is None


# ---- the fast path against math-verify -----------------------------------------------------------


def opinion(gold: str, answer: str) -> bool:
    """math-verify's, asked directly."""
    parsed = [math_verify.parse(as_latex(text), parsing_timeout=None) for text in (gold, answer)]
    return bool(math_verify.verify(*parsed, timeout_seconds=None))


def spellings(value: Fraction, chance: random.Random) -> list[str]:
    """The same number in the forms that the fast path knows, and some that it does not."""
    n, d = value.numerator, value.denominator
    k = chance.randint(2, 9)
    sign = "-" if n < 0 else ""
    forms = [f"{n * k}/{d * k}", rf"{sign}\frac{{{abs(n)}}}{{{d}}}", rf"{sign}\dfrac{{{abs(n)}}}{{{d}}}"]
    if d == 1:
        forms += [str(n), f"{n}.0", f"+{n}" if n >= 0 else f"{n}.00", f"{sign}0{abs(n)}"]
    if 10**4 % d == 0:
        forms.append(f"{float(value):.4f}")
    return forms


def number_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    chance = random.Random(seed)
    pairs = []
    for _ in range(count):
        a = Fraction(chance.randint(-400, 400), chance.choice([1, 1, 1, 2, 3, 4, 5, 7, 8, 20]))
        near = a + chance.choice([1, -1, Fraction(1, 10), Fraction(1, 1000), -2 * a])
        b = chance.choice([a, near])
        pairs.append((chance.choice(spellings(a, chance)), chance.choice(spellings(b, chance))))
    return pairs


SAME = r"""
    x A x+1 2x abc x^2 \pi \sqrt{2} (1) a/b 12a 1e5 \frac{x}{2} i 00 0.50 e 1. () 1- -x --1 x_1 f(x)
    \infty 1/0 \frac{1}{0} None pi 3\,4 12abc {x} x^{2} 2^3 -- 1/2/3 1.2.3 +-1 0.0 -0 1_000 .5
"""
TEXTS = SAME.split()


def test_the_fast_path_never_differs_from_math_verify():
    pairs = [*number_pairs(300, 0), *((t, t) for t in TEXTS), *((t, "1") for t in TEXTS), ("1/0", "2/0")]
    pairs = [(normalise(gold), normalise(answer)) for gold, answer in pairs]
    decided = {pair: answer for pair in pairs if (answer := decide(*pair)) is not None}
    assert len(decided) > 200
    assert not {pair: plain for pair, plain in decided.items() if plain != opinion(*pair)}


@given(
    st.text(alphabet="0123456789+-/. ", min_size=1, max_size=8),
    st.text(alphabet="0123456789+-/.", min_size=1, max_size=8),
)
def test_number_like_strings_are_decided_as_math_verify_would_or_left_to_it(gold, answer):
    gold, answer = normalise(gold), normalise(answer)
    plain = decide(gold, answer)
    assert plain is None or plain == opinion(gold, answer)


@given(st.text(max_size=60))
def test_normalising_and_screening_take_any_text(text):
    once = normalise(text)
    assert screen(once) is None or screen(once)
    assert decide(once, once) in (True, None)
