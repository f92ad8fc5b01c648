"""Programs against tests: both styles, how values and lines are compared, limits, what cannot be forged."""

import pytest

from tasks import sandbox
from tasks.rewards.pool import VerifierPool
from tasks.rewards.score import RewardFunction
from tasks.rewards.terms.accuracy import Accuracy
from tasks.rewards.verifiers.code import same_text
from tasks.sandbox import Sandbox, WeakSandboxError
from tasks.sandbox.plain import same_value
from tests.rewards.rows import problem

ADD = {"entry_point": "f", "cases": [{"args": [1, 2], "expected": 3}, {"args": [-1, 1], "expected": 0}]}
ECHO = {"cases": [{"stdin": "3 4\n", "stdout": "7\n"}, {"stdin": "0 0\n", "stdout": "0"}]}


def judged(pool, arguments, program):
    asked = problem("code", "", **arguments)
    return pool.verify([asked], [f"<think> a </think> <answer> ```python\n{program}\n``` </answer>"])[0]


CALLS = {
    "right": ("def f(a, b):\n    return a + b", "correct"),
    "right, with prints": ("def f(a, b):\n    print('hello')\n    return a + b", "correct"),
    "right, importing": ("import math, heapq\ndef f(a, b):\n    return math.floor(a + b)", "correct"),
    "wrong on one": ("def f(a, b):\n    return abs(a + b) or 1", "wrong"),
    "raises": ("def f(a, b):\n    raise ValueError", "wrong"),
    "does not compile": ("def f(a, b) return", "wrong"),
    "has no such function": ("def g(a, b):\n    return a + b", "wrong"),
    "a bool is no number": ("def f(a, b):\n    return False if a < 0 else 3", "wrong"),
    "returns what is not data": ("def f(a, b):\n    return object()", "wrong"),
    "returns nothing": ("def f(a, b):\n    pass", "wrong"),
    "never ends": ("def f(a, b):\n    while True: pass", "timeout"),
}
STDIN = {
    "right": ("a, b = map(int, input().split())\nprint(a + b)", "correct"),
    "right, trailing white space": ("a, b = map(int, input().split())\nprint(a + b, ' \\n\\n')", "correct"),
    "right, sys.stdin": ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", "correct"),
    "right, ends with exit()": ("print(sum(map(int, input().split())))\nexit()", "correct"),
    "right, in a main guard": (
        "if __name__ == '__main__':\n    print(sum(map(int, input().split())))",
        "correct",
    ),
    "wrong on one": ("print(7)", "wrong"),
    "right lines, but it fails": ("print(sum(map(int, input().split())))\nraise SystemExit(1)", "wrong"),
    "waits for more": ("input(); print(7); input()", "wrong"),
}


@pytest.mark.parametrize(("program", "expected"), CALLS.values(), ids=CALLS)
def test_functions(pool, program, expected):
    assert judged(pool, ADD, program).verdict.value == expected


@pytest.mark.parametrize(("program", "expected"), STDIN.values(), ids=STDIN)
def test_standard_input(pool, program, expected):
    assert judged(pool, ECHO, program).verdict.value == expected


def test_the_detail_says_how_many_cases_passed(pool):
    assert judged(pool, ADD, "def f(a, b):\n    return 3").detail == "1 of 2 cases passed"
    assert judged(pool, ECHO, "print(7)").detail == "1 of 2 cases passed"


def test_a_problem_without_cases_is_an_error(pool):
    assert judged(pool, {"cases": []}, "print(7)").verdict.value == "error"


def test_values_compare_as_data():
    assert same_value([1, [2.0, "a"], {"k": None}], [1, [2.0 + 1e-12, "a"], {"k": None}])
    assert same_value((1, 2), [1, 2])
    for expected, value in [
        (1, True),
        (1, "1"),
        ([1], [1, 1]),
        ({"a": 1}, {"b": 1}),
        (0.5, 0.51),
        (10**400, 1.0),
    ]:
        assert not same_value(expected, value)


def test_lines_compare_without_trailing_space():
    assert same_text("a\nb", b"a  \nb\n\n")
    assert not same_text("a\nb", b"a b")
    assert not same_text("a", b"\xff")


TESTS = """
def test_add():
    s = Stack()
    s.push(1)
    assert s.pop() == 1
    assert s.items == []
def test_empty():
    with pytest.raises(IndexError):
        Stack().pop()
    assert not Stack().full()
"""
STACK = """
class Stack:
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x)
    def pop(self): return self.items.pop()
    def full(self): return False
"""
FORGED = """
class Stack:
    items = []
    def push(self, x): pass
    def pop(self): return self
    def full(self): return self
    def __eq__(self, other): return True
    def __bool__(self): return False
"""


def test_a_bug_fix_is_graded_by_unit_tests_that_it_cannot_talk_to(pool):
    assert judged(pool, {"unit_tests": TESTS}, STACK).verdict.value == "correct"
    broken = STACK.replace("self.items.pop()", "self.items[-1] if self.items else None")
    assert judged(pool, {"unit_tests": TESTS}, broken).detail == "0 of 2 cases passed"
    assert judged(pool, {"unit_tests": TESTS}, FORGED).verdict.value == "wrong"
    assert judged(pool, {"unit_tests": TESTS}, "class Stack").verdict.value == "wrong"


LIES = """
class Lie:
    def _lie(self, *other): return True
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = __instancecheck__ = _lie
    def __hash__(self): return 1
    def __len__(self): return 3
    def __iter__(self): return iter([1, 2, 3])
    def __getitem__(self, at): return [1, 2, 3][at]
    def __abs__(self): return 0
    __sub__ = __rsub__ = lambda self, other: 0
    __int__ = __index__ = lambda self: 3
    __float__ = lambda self: 3.0
    __round__ = lambda self, *digits: 3
    def keys(self): return ["a"]
    def items(self): return [("a", 1)]
    __class__ = property(lambda self: {kind})
class LyingInt(Lie, int): __class__ = int
class LyingFloat(Lie, float): __class__ = float
class LyingStr(Lie, str): __class__ = str
class LyingList(Lie, list): __class__ = list
class LyingTuple(Lie, tuple): __class__ = tuple
class LyingDict(Lie, dict): __class__ = dict
"""
LIARS = {
    **{f"claims to be {kind}": (kind, "Lie()") for kind in ("bool", "int", "float", "str", "list", "dict")},
    "int": ("int", "LyingInt(77)"),
    "float": ("int", "LyingFloat(77.0)"),
    "not a number": ("int", "LyingFloat('nan')"),
    "str": ("int", "LyingStr('other')"),
    "list": ("int", "LyingList([77])"),
    "tuple": ("int", "LyingTuple([77])"),
    "dict": ("int", "LyingDict(b=77)"),
    "a list of them": ("int", "[LyingInt(77)] * 4"),
}
HONEST = {  # assertion: what an honest program returns
    **{"f() == 3": 3, "3 == f()": 3, "f() != 77 and f() == 3": 3, "f() is True": True, "f() is not None": 3},
    **{
        "f() < 5": 3,
        "5 > f()": 3,
        "f() >= 3": 3,
        "0 < f() <= 3": 3,
        "not f() > 3": 3,
        "f() in (3, 4)": 3,
        "f() in {4, 3}": 3,
    },
    **{
        "f()": True,
        "not f()": False,
        "2 in f()": [1, 2, 3],
        "4 not in f()": [1, 2, 3],
        "len(f()) == 3": [1] * 3,
    },
    **{"len(f()) > 2": [1] * 3, "sorted(f()) == [1, 2, 3]": [3, 1, 2], "abs(f() - 0.3) < 1e-6": 0.1 + 0.2},
    **{"round(f(), 2) == 0.33": 1 / 3, "isinstance(f(), int)": 3, "not isinstance(f(), (str, list))": 3},
    **{
        "f() == [1, 2, 3]": (1, 2, 3),
        "f() == {'a': 1}": {"a": 1},
        "'el' in f()": "hello",
        "f() in 'abc'": "b",
    },
    **{"len(f())": [1], "not len(f())": [], "f() == 0.3": 0.1 + 0.2, "abs(1 - f()) <= 0.5": 1.25},
}
NOT_HELD_BY_A_LIE = [text for text in HONEST if "not" not in text and "!=" not in text and text != "len(f())"]


@pytest.mark.parametrize("assertion", HONEST)
def test_assertions_hold_for_honest_values(pool, assertion):
    tests, value = f"def test_it():\n    assert {assertion}", HONEST[assertion]
    assert judged(pool, {"unit_tests": tests}, f"def f(): return {value!r}").verdict.value == "correct"
    assert judged(pool, {"unit_tests": tests}, "def f(): return {'no': None}").verdict.value == (
        "correct" if assertion in HELD_BY_ANY_DATA else "wrong"
    )


HELD_BY_ANY_DATA = {"f() is not None", "not isinstance(f(), (str, list))", "4 not in f()", "len(f())"}


@pytest.mark.parametrize(("kind", "liar"), LIARS.values(), ids=LIARS)
def test_an_object_that_lies_makes_no_assertion_hold(pool, kind, liar):
    """One test function an assertion, so that the share of those that passed shows each."""
    tests = "".join(f"def test_{n}():\n    assert {text}\n" for n, text in enumerate(NOT_HELD_BY_A_LIE))
    program = LIES.replace("{kind}", kind) + f"\ndef f(): return {liar}"
    for n, text in enumerate(NOT_HELD_BY_A_LIE):
        one = f"def test_{n}():\n    assert {text}\n"
        if (text, liar) in HELD_BY_WHAT_IT_IS:
            continue
        assert judged(pool, {"unit_tests": one}, program).verdict.value == "wrong", text
    assert judged(pool, {"unit_tests": tests}, program).verdict.value == "wrong"


HELD_BY_WHAT_IT_IS = {
    *(("f() >= 3", f"{lie}") for lie in ("LyingInt(77)", "LyingFloat(77.0)")),
    *(("len(f()) > 2", lie) for lie in ("LyingStr('other')", "[LyingInt(77)] * 4")),
    ("isinstance(f(), int)", "LyingInt(77)"),
}


@pytest.mark.parametrize(("kind", "liar"), LIARS.values(), ids=LIARS)
def test_a_lying_value_is_no_right_value(pool, kind, liar):
    program = LIES.replace("{kind}", kind)
    for expected in (3, 3.0, True, "other!", [1, 2, 3], {"a": 1}, None):
        call = {"entry_point": "f", "cases": [{"args": [], "expected": expected}]}
        assert judged(pool, call, f"{program}\ndef f(): return {liar}").verdict.value == "wrong"
    stdin = {"cases": [{"stdin": "", "stdout": "3"}]}
    assert judged(pool, stdin, f"{program}\nprint({liar}, end='')").verdict.value == "wrong"


def test_values_are_copied_before_the_program_goes_on(pool):
    growing = "kept = []\ndef f(x):\n    kept.append(x)\n    return kept"
    cases = [{"args": [1], "expected": [1]}, {"args": [2], "expected": [1, 2]}]
    assert judged(pool, {"entry_point": "f", "cases": cases}, growing).verdict.value == "correct"
    tests = "def test_it():\n    assert f(1) == [1]\n    assert f(2) == [1, 2]"
    assert judged(pool, {"unit_tests": tests}, growing).verdict.value == "correct"


def test_subclasses_of_plain_types_are_data(pool):
    program = """
from collections import Counter, OrderedDict, namedtuple
from enum import IntEnum
class Colour(IntEnum):
    red = 2
def f(kind):
    pair = namedtuple("Pair", "a b")(1, Colour.red)
    return {"pair": pair, "counter": Counter("aab"), "ordered": OrderedDict(x=True)}[kind]
"""
    expected = {"pair": [1, 2], "counter": {"a": 2, "b": 1}, "ordered": {"x": True}}
    cases = [{"args": [kind], "expected": value} for kind, value in expected.items()]
    assert judged(pool, {"entry_point": "f", "cases": cases}, program).verdict.value == "correct"


UNFIT = ["def test_a(): pass", "x = 1", "def test_a(", "assert True",
         "def check(candidate): assert candidate() == 1",
         "import numpy\nassert f() == 1", "def test_a(missing): assert f() == missing"]  # fmt: skip


@pytest.mark.parametrize("tests", UNFIT)
def test_unit_tests_that_cannot_judge_are_an_error(pool, tests):
    judgement = judged(pool, {"unit_tests": tests}, "def f(): pass")
    assert judgement.verdict.value == "error"
    assert judgement.detail.startswith("problem p: unit_tests: ")


def test_partial_credit_is_the_share_of_cases(pool):
    half = "def f(a, b):\n    if a < 0:\n        raise ValueError\n    return 3"
    with VerifierPool(workers=1, partial_credit=True) as generous:
        reward = RewardFunction((Accuracy(partial_credit=True),), generous)
        asked = [problem("code", "", **arguments) for arguments in (ADD, ADD, ECHO)]
        texts = [
            f"<think> a </think>\n```\n{program}\n```" for program in (half, CALLS["right"][0], "print(7)")
        ]
        assert [s.total for s in reward.score(asked, texts, [9] * 3, 99)] == [0.5, 1.0, 0.5]
    assert judged(pool, ADD, half).verdict.value == "wrong"


def test_a_kernel_without_a_needed_layer_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(sandbox, "NEEDED", ("resource_limits", "a_layer_of_the_future"))
    with pytest.raises(WeakSandboxError, match=r"no a_layer_of_the_future: .* `allow_weak_sandbox: true`"):
        Sandbox()
    with VerifierPool(workers=1) as strict, pytest.raises(WeakSandboxError):
        judged(strict, ADD, CALLS["right"][0])
    with VerifierPool(workers=1, allow_weak_sandbox=True) as weak:
        assert judged(weak, ADD, CALLS["right"][0]).verdict.value == "correct"
