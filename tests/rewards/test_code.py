"""Programs against tests: both styles, how values and lines are compared, limits, what cannot be forged."""

import pytest

from tasks import sandbox
from tasks.rewards.pool import VerifierPool
from tasks.rewards.score import RewardFunction
from tasks.rewards.terms.accuracy import Accuracy
from tasks.rewards.verifiers.code import same_text, same_value
from tasks.sandbox import Sandbox, WeakSandboxError
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


UNFIT = [
    "def test_a(): assert f() == g()",
    "def test_a(): pass",
    "x = 1",
    "def test_a(",
    "def test_a():\n  for i in x:\n    assert i",
]


@pytest.mark.parametrize("tests", UNFIT)
def test_unit_tests_that_only_the_program_could_judge_are_an_error(pool, tests):
    assert judged(pool, {"unit_tests": tests}, "def f(): pass").verdict.value == "error"


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
