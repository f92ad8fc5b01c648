"""The tiny world's exercises: verifiable domains in five levels, two languages, solved step by step (B.3.1).

Each exercise is a question with its verifier and a `solve` that writes the working as clauses, with a given
chance of a slip in each step. Problems come from its question side only; the working is what the synthetic
web (`tasks.tiny_world.documents`) teaches the base model from. What a level changes, from 1 to 5:

    math    operations in the expression: 1 to 5; from level 2 on one can be a product
    code    operations of the function: 1 to 5, with brackets where they are needed
    stem    formulas that follow from each other: 1, 1, 2, 2, 3; options: 2, 4, 4, 6, 6
    logic   people to order: 2 to 6; numbers to sort: 3 to 7

General prompts are in `tasks.tiny_world.talk`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from tasks.problem import Domain
from tasks.tiny_world.exercise import LEVELS, NAMES, Exercise, Solution
from tasks.tiny_world.lexicon import Clause, Language, phrase
from tasks.tiny_world.talk import talk


def exercises(
    domain: Domain, rng: random.Random, weights: Sequence[float] = (1, 1, 1, 1, 1)
) -> Iterator[Exercise]:
    """An endless stream of one domain's exercises, 60% English; `weights` are those of levels 1 to 5."""
    while True:
        language: Language = "en" if rng.random() < 0.6 else "zh"
        level = rng.choices(LEVELS, weights)[0]
        yield _MAKERS[domain](rng, language, level)


def _slip(value: int, rng: random.Random) -> int:
    return max(0, value + rng.choice((-10, -2, -1, 1, 2, 10)))


# ---- math: an expression, worked out from left to right -----------------------------------------

Step = tuple[str, int]
"""Sign and number."""
_MOST = 999
"""No partial result is larger, so that a model of single digits meets three of them at most."""


def _math(rng: random.Random, language: Language, level: int) -> Exercise:
    start, steps = rng.randint(2, 99), list[Step]()
    value = start
    while len(steps) < level:
        sign = rng.choice("++--*") if level > 1 else rng.choice("+-")
        number = rng.randint(2, 9) if sign == "*" else rng.randint(1, 99)
        if 0 <= (result := _calculated(value, sign, number)) <= _MOST:
            steps.append((sign, number))
            value = result
    expression = _bracketed(str(start), steps)[-1]
    forms = {
        "en": (f"what is {expression}?", f"compute {expression}."),
        "zh": (f"计算 {expression}。", f"{expression} 等于多少？"),
    }
    return Exercise(
        "math", language, level, expression, rng.choice(forms[language]), str(value), "math",
        solve=lambda r, slip: _solve_math(start, steps, r, slip),
        guess=lambda r: str(_slip(value, r)),
    )  # fmt: skip


def _calculated(value: int, sign: str, number: int) -> int:
    return value + number if sign == "+" else value - number if sign == "-" else value * number


def _bracketed(first: str, steps: Sequence[Step]) -> list[str]:
    """The expression after each step: `x + 3`, `( x + 3 ) * 2`, ...; a sum gets brackets before a product."""
    text, is_sum, out = first, False, []
    for sign, number in steps:
        product = sign in "*%"
        text = f"( {text} ) {sign} {number}" if product and is_sum else f"{text} {sign} {number}"
        is_sum = not product
        out.append(text)
    return out


def _solve_math(start: int, steps: Sequence[Step], rng: random.Random, slip: float) -> Solution:
    value, clauses = start, list[Clause]()
    for i, (sign, number) in enumerate(steps):
        right = _calculated(value, sign, number)
        result = _slip(right, rng) if rng.random() < slip else right
        clauses.append(("@first" if i == 0 else "@then", f"{value} {sign} {number} = {result}"))
        value = result
    return [*clauses, ("@so_result", str(value))], str(value)


# ---- code: a function from its description ------------------------------------------------------

_OPS = {
    "+": ("add", "加"),
    "-": ("subtract", "减"),
    "*": ("multiply by", "乘"),
    "%": ("take the remainder by", "取余"),
}


def _code(rng: random.Random, language: Language, level: int) -> Exercise:
    steps = [_operation(rng) for _ in range(level)]
    at = 0 if language == "en" else 1
    described = [f"{_OPS[sign][at]} {number}" for sign, number in steps]
    forms = {
        "en": (
            f"write f ( x ): {', then '.join(described)}.",
            f"f ( x ) should {', then '.join(described)}.",
        ),
        "zh": (f"写 f ( x )：{'，再'.join(described)}。",),
    }
    cases = [{"args": [x], "expected": _applied(steps, x)} for x in (0, 1, 3, 10, 23)]
    return Exercise(
        "code", language, level, str(steps), rng.choice(forms[language]),
        _program(_bracketed("x", steps)[-1]), "code",
        solve=lambda r, slip: _solve_code(steps, r, slip),
        guess=lambda r: _program(_carelessly(steps, 0.6, r)[-1]),
        verifier_args={"entry_point": "f", "cases": cases},
    )  # fmt: skip


def _operation(rng: random.Random) -> Step:
    sign = rng.choice("++--**%")
    return sign, rng.randint(2, 9 if sign in "*%" else 20)


def _applied(steps: Sequence[Step], x: int) -> int:
    for sign, number in steps:
        x = x % number if sign == "%" else _calculated(x, sign, number)
    return x


def _carelessly(steps: Sequence[Step], slip: float, rng: random.Random) -> list[str]:
    """As `_bracketed`; a slip forgets the brackets or takes the other sign."""
    text, is_sum, out = "x", False, []
    for sign, number in steps:
        product, wrong = sign in "*%", rng.random() < slip
        brackets = product and is_sum
        shown = sign if brackets or not wrong else {"+": "-", "-": "+", "*": "+", "%": "-"}[sign]
        text = f"( {text} ) {shown} {number}" if brackets and not wrong else f"{text} {shown} {number}"
        is_sum = not product
        out.append(text)
    return out


def _program(expression: str) -> str:
    return f"def f ( x ): return {expression}"


def _solve_code(steps: Sequence[Step], rng: random.Random, slip: float) -> Solution:
    written = _carelessly(steps, slip, rng)
    clauses: list[Clause] = [("@first" if i == 0 else "@then", text) for i, text in enumerate(written)]
    return clauses, _program(written[-1])


# ---- stem: multiple choice from formulas that follow from each other ----------------------------

FORMULAS = {
    "distance": ("speed", "time"),
    "mass": ("density", "volume"),
    "force": ("mass", "acceleration"),
    "work": ("force", "distance"),
    "momentum": ("mass", "speed"),
    "charge": ("current", "time"),
    "voltage": ("current", "resistance"),
    "energy": ("charge", "voltage"),
    "power": ("force", "speed"),
}
"""Quantity -> the two that it is the product of."""
_STEM = {1: (1, 2), 2: (1, 4), 3: (2, 4), 4: (2, 6), 5: (3, 6)}
"""Level -> formulas to use one after another, options."""
_LETTERS = "ABCDEF"


def _stem(rng: random.Random, language: Language, level: int) -> Exercise:
    length, options = _STEM[level]
    chain = rng.choice(_CHAINS[length])
    low, high = (2, 12) if level in (2, 4) else (2, 9)
    numbers = [rng.randint(low, high) for _ in range(length + 1)]
    given = _given(chain)
    right = _products(numbers)[-1]
    values = _options(right, numbers, options, rng)
    letter = _LETTERS[values.index(right)]
    listed = " ".join(f"( {name} ) {value}" for name, value in zip(_LETTERS, values, strict=False))
    told = list(zip(given, numbers, strict=True))
    if level > 2:
        rng.shuffle(told)
    target = phrase(chain[-1], language)
    facts = (", " if language == "en" else "，").join(f"{phrase(key, language)} {n}" for key, n in told)
    question = (
        f"{facts}. what is the {target}? {listed}"
        if language == "en"
        else f"{facts}。{target}是多少？ {listed}"
    )
    return Exercise(
        "stem", language, level, f"{chain[-1]} {sorted(told)}", question, letter, "choice",
        solve=lambda r, slip: _solve_stem(chain, given, numbers, values, r, slip),
        guess=lambda r: r.choice(_LETTERS[:options]),
        verifier_args={"options": {n: str(v) for n, v in zip(_LETTERS, values, strict=False)}},
    )  # fmt: skip


def _other(quantity: str, known: str) -> str:
    """The factor of `quantity` that is not `known`."""
    left, right = FORMULAS[quantity]
    return left if right == known else right


def _chains(length: int) -> list[tuple[str, ...]]:
    """Quantities of which each is a factor of the next."""
    chains: list[tuple[str, ...]] = [(name,) for name in FORMULAS]
    for _ in range(length - 1):
        chains = [(*c, name) for c in chains for name, factors in FORMULAS.items() if c[-1] in factors]
    return [c for c in chains if len(set(_given(c))) == length + 1]


def _given(chain: tuple[str, ...]) -> list[str]:
    """The quantities that a question must give for `chain`."""
    return [*FORMULAS[chain[0]], *(_other(chain[i], chain[i - 1]) for i in range(1, len(chain)))]


_CHAINS = {length: _chains(length) for length in (1, 2, 3)}


def _products(numbers: Sequence[int]) -> list[int]:
    """The product of the first two numbers, of the first three, ..."""
    value, out = numbers[0], []
    for number in numbers[1:]:
        value *= number
        out.append(value)
    return out


def _options(right: int, numbers: Sequence[int], count: int, rng: random.Random) -> list[int]:
    """`count` distinct values: the right one, and near ones that a slip leads to."""
    values = {right}
    while len(values) < count:
        step = rng.choice((*numbers, 1, 2, 10))
        values.add(max(1, right + rng.choice((-1, 1)) * step))
    out = sorted(values)
    rng.shuffle(out)
    return out


def _solve_stem(
    chain: Sequence[str], given: Sequence[str], numbers: Sequence[int], values: Sequence[int],
    rng: random.Random, slip: float,
) -> Solution:  # fmt: skip
    value, left, clauses = numbers[0], given[0], list[Clause]()
    for target, right, number in zip(chain, given[1:], numbers[1:], strict=True):
        product = value * number
        result = (
            max(1, product + rng.choice((-number, number, -1, 1, 10))) if rng.random() < slip else product
        )
        clauses.append(("@" + target, "=", "@" + left, "*", "@" + right, f"= {value} * {number} = {result}"))
        value, left = result, target
    letter = _LETTERS[min(range(len(values)), key=lambda i: abs(values[i] - value))]
    return [*clauses, ("@so_option", letter)], letter


# ---- logic: who is tallest, and sorting ---------------------------------------------------------


def _logic(rng: random.Random, language: Language, level: int) -> Exercise:
    return _tallest(rng, language, level) if rng.random() < 0.6 else _sorting(rng, language, level)


def _tallest(rng: random.Random, language: Language, level: int) -> Exercise:
    order = rng.sample(NAMES, level + 1)  # tallest first
    facts = [(order[i], order[i + 1]) for i in range(len(order) - 1)]
    rng.shuffle(facts)
    ask = rng.choice(("tallest", "shortest"))
    said = [
        f"{phrase(x, 'en')} is taller than {phrase(y, 'en')}."
        if language == "en"
        else f"{phrase(x, 'zh')}比{phrase(y, 'zh')}高。"
        for x, y in facts
    ]
    question = f"{' '.join(said)} who is the {ask}?" if language == "en" else (
        "".join(said) + ("谁最高？" if ask == "tallest" else "谁最矮？")
    )  # fmt: skip
    answer = order[0] if ask == "tallest" else order[-1]
    return Exercise(
        "logic", language, level, " > ".join(order), question, phrase(answer, language), "exact",
        solve=lambda r, slip: _solve_tallest(order, ask, language, r, slip),
        guess=lambda r: phrase(r.choice(order), language),
    )  # fmt: skip


def _solve_tallest(
    order: list[str], ask: str, language: Language, rng: random.Random, slip: float
) -> Solution:
    believed = list(order)
    if rng.random() < slip:
        rng.shuffle(believed)
    chain: list[str] = []
    for name in believed:
        chain += [">", "@" + name]
    answer = believed[0] if ask == "tallest" else believed[-1]
    return [("@so_order", *chain[1:]), ("@" + ask, "@" + answer)], phrase(answer, language)


def _sorting(rng: random.Random, language: Language, level: int) -> Exercise:
    numbers, rising = rng.sample(range(100), level + 2), rng.random() < 0.5
    listed = ", ".join(map(str, numbers))
    question = (
        f"sort in {'ascending' if rising else 'descending'} order: {listed}"
        if language == "en"
        else f"按{'升' if rising else '降'}序排列：{listed}"
    )
    right = ", ".join(map(str, sorted(numbers, reverse=not rising)))
    return Exercise(
        "logic", language, level, str(sorted(numbers)), question, right, "exact",
        solve=lambda r, slip: _solve_sorting(numbers, rising, r, slip),
        guess=lambda r: ", ".join(map(str, r.sample(numbers, len(numbers)))),
    )  # fmt: skip


def _solve_sorting(numbers: list[int], rising: bool, rng: random.Random, slip: float) -> Solution:
    ordered = sorted(numbers, reverse=not rising)
    if rng.random() < slip:
        i = rng.randrange(len(ordered) - 1)
        ordered[i], ordered[i + 1] = ordered[i + 1], ordered[i]
    clauses: list[Clause] = [("@smallest" if rising else "@largest", str(ordered[0]))]
    clauses += [("@next", str(n)) for n in ordered[1:]]
    return clauses, ", ".join(map(str, ordered))


_MAKERS: dict[Domain, Callable[[random.Random, Language, int], Exercise]] = {
    "math": _math,
    "code": _code,
    "stem": _stem,
    "logic": _logic,
    "general": talk,
}
