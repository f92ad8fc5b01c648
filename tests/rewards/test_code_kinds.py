"""Code problems as other projects write them: their keys, checkers, tolerances, unit tests."""

# ruff: noqa: E501 (programs in one line)
import pytest

from tasks.rewards.cases import read_tests
from tests.rewards.rows import problem


def judged(pool, arguments, program):
    answer = f"<think> a </think> <answer>\n```python\n{program}\n```\n</answer>"
    return pool.verify([problem("code", "", **arguments)], [answer])[0]


def verdict(pool, arguments, program):
    return judged(pool, arguments, program).verdict.value


def prints(expected, **more):
    return {"cases": [{"stdin": "", "stdout": expected}], **more}


# ---- floats --------------------------------------------------------------------------------------

PRINTED = [
    ("0.333333", "1/3", "correct"),
    ("0.333333", "0.3334", "wrong"),
    ("2", "2.0", "correct"),
    ("2.0", "2", "correct"),
    ("2.0", "'2.000000'", "correct"),
    ("2", "2.9999999999999996", "wrong"),
    ("3", "2.9999999999999996", "correct"),
    ("1000000007", "1000000007.5", "wrong"),
    ("1000000007", "1000000008", "wrong"),
    ("1e9", "1000000000.5", "correct"),
    ("[0.5, 0.25]", "[0.5000000001, 1/4]", "correct"),
    ("[0.5, 0.25]", "[0.5, 0.26]", "wrong"),
    ("x = 0.5 y = 1.5", "'x = 0.50 y = 1.50'", "correct"),
    ("x = 0.5", "'y = 0.5'", "wrong"),
    ("007", "7", "wrong"),
    ("nan", "float('nan')", "correct"),
    ("-0.0000001", "0.0", "correct"),
]


@pytest.mark.parametrize(("expected", "value", "verdict_"), PRINTED)
def test_printed_floats(pool, expected, value, verdict_):
    assert verdict(pool, prints(expected), f"print({value})") == verdict_


RETURNED = [
    (1.414214, "2 ** 0.5", "correct"),
    (1.414214, "1.4143", "wrong"),
    ([0.1, [0.2]], "[0.1 + 1e-9, (0.2,)]", "correct"),
    (1000000007, "1000000007.5", "wrong"),
    (3, "3.0", "correct"),
    (float("inf"), "float('inf')", "correct"),
    (float("inf"), "1e308", "wrong"),
    (float("-inf"), "float('inf')", "wrong"),
    (float("nan"), "float('nan')", "correct"),
    ({"a": float("inf")}, "{'a': float('inf')}", "correct"),
    (1.0, "float('nan')", "wrong"),
    (1, "True", "wrong"),
]


@pytest.mark.parametrize(("expected", "value", "verdict_"), RETURNED)
def test_returned_floats(pool, expected, value, verdict_):
    asked = {"entry_point": "f", "cases": [{"args": [], "expected": expected}]}
    assert verdict(pool, asked, f"def f(): return {value}") == verdict_


def test_the_tolerance_is_a_setting_of_the_problem(pool):
    for tolerance, expected in ((0.01, "correct"), (0, "wrong"), (1e-9, "wrong")):
        assert verdict(pool, prints("0.5", tolerance=tolerance), "print(0.5001)") == expected
        called = {"entry_point": "f", "cases": [{"args": [], "expected": 0.5}], "tolerance": tolerance}
        assert verdict(pool, called, "def f(): return 0.5001") == expected


# ---- keys and entry points -----------------------------------------------------------------------

DOUBLE = "print(2 * int(input()))"
CALL = "def f(a, b): return a + b"
KEYS = [
    ({"cases": [{"input": "2\n", "output": "4\n"}]}, DOUBLE),
    ({"cases": [{"stdin": "2", "stdout": 4}]}, DOUBLE),
    ({"cases": [{"stdin": ["2"], "stdout": ["4"]}]}, DOUBLE),
    ({"inputs": ["2\n", "3\n"], "outputs": ["4\n", "6\n"]}, DOUBLE),
    ({"inputs": [[1, 2], [3, 4]], "outputs": [3, 7], "fn_name": "f"}, CALL),
    ({"inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]], "fn_name": "f"}, CALL),
    ({"fn_name": "f", "cases": [{"input": [1, 2], "output": 3}]}, CALL),
]


@pytest.mark.parametrize(("arguments", "program"), KEYS)
def test_other_projects_keys(pool, arguments, program):
    assert verdict(pool, arguments, program) == "correct"
    wrong = program.replace("2 *", "3 *").replace("a + b", "a - b")
    assert verdict(pool, arguments, wrong) == "wrong"


METHOD = "class Solution:\n    def add(self, a, b):\n        return a + b"
STATIC = "class Solution:\n    @staticmethod\n    def add(a, b):\n        return a + b"


@pytest.mark.parametrize("entry_point", ["add", "Solution.add", "Solution().add"])
@pytest.mark.parametrize("program", [METHOD, STATIC, "def add(a, b):\n    return a + b"])
def test_methods_and_functions(pool, entry_point, program):
    asked = {
        "entry_point": entry_point,
        "cases": [{"args": [1, 2], "expected": 3}, {"args": [2, 2], "expected": 4}],
    }
    assert verdict(pool, asked, program) == "correct"
    assert verdict(pool, asked, program.replace("a + b", "a - b")) == "wrong"


def test_a_method_gets_a_new_instance_for_each_call(pool):
    counting = "class Solution:\n    def __init__(self): self.n = 0\n    def f(self):\n        self.n += 1\n        return self.n"
    asked = {"entry_point": "f", "cases": [{"args": [], "expected": 1}] * 2}
    assert verdict(pool, asked, counting) == "correct"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"inputs": [1], "outputs": []}, "inputs and outputs must be two lists of the same length"),
        ({"cases": [{"in": "1", "out": "2"}]}, "cases[0].stdin is missing: the case has in, out"),
        ({"cases": [{"stdin": "1", "stdout": True}]}, "cases[0].stdout must be text"),
        ({"cases": []}, "cases is empty"),
        ({"checker": 1, "cases": [{"stdin": "", "stdout": ""}]}, "checker must be text"),
        ({"unit_tests": []}, "unit_tests is empty"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_key(arguments, sentence):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the sentence is compared
        read_tests(arguments)
    assert sentence in str(refused.value)


# ---- checkers ------------------------------------------------------------------------------------

FACTORS = """
def check(input, expected, output):
    a, b = map(int, output.split())
    return 1 < a < int(input) and a * b == int(input)
"""
FACTOR = "n = int(input())\na = next(a for a in range({}, n) if n % a == 0)\nprint(a, n // a)"


def test_a_checker_accepts_any_right_output(pool):
    asked = {"cases": [{"stdin": "12", "stdout": "2 6"}], "checker": FACTORS}
    for start in (2, 3, 4):
        assert verdict(pool, asked, FACTOR.format(start)) == "correct"
    for wrong in ("print(1, 12)", "print(5, 5)", "print('x')", "print()"):
        assert verdict(pool, asked, wrong) == "wrong"


def test_a_checker_of_calls(pool):
    checker = "def check(input, expected, output):\n    return sorted(output) == sorted(expected)"
    asked = {"entry_point": "f", "cases": [{"args": [[1, 2]], "expected": [1, 2]}], "checker": checker}
    assert verdict(pool, asked, "def f(x): return x[::-1]") == "correct"
    assert verdict(pool, asked, "def f(x): return x[:1]") == "wrong"


@pytest.mark.parametrize("checker", ["def check(", "x = 1", "raise ValueError"])
def test_a_checker_that_does_not_load_is_an_error(pool, checker):
    judgement = judged(pool, {"cases": [{"stdin": "", "stdout": "1"}], "checker": checker}, "print(1)")
    assert (judgement.verdict.value, "checker" in judgement.detail) == ("error", True)


FORGERIES = [
    "import builtins\nbuiltins.check = lambda *a: True\nprint(1, 12)",
    "import sys, types\nm = types.ModuleType('answer')\nm.check = lambda *a: True\nsys.modules['answer'] = m\nprint(1, 12)",
    "import os\nos.write(3, b'true')\nprint(1, 12)",
    "def check(input, expected, output): return True\nprint(1, 12)",
    "print('[true]')",
]


@pytest.mark.parametrize("program", FORGERIES)
def test_a_program_cannot_forge_its_checker(pool, program):
    asked = {"cases": [{"stdin": "12", "stdout": "2 6"}], "checker": FACTORS}
    assert verdict(pool, asked, program) == "wrong"


# ---- unit tests ----------------------------------------------------------------------------------

HUMANEVAL = """
METADATA = {"author": "x"}

def check(candidate):
    assert True, "This prints if this assert fails 1 (good for debugging!)"
    assert abs(candidate([1.0, 2.0]) - 3.0 / 2.0) < 1e-6
    for n in range(1, 5):
        assert candidate([n] * n) == float(n), "n"
    assert candidate([1, 3]) == sum([1, 3]) / 2
"""
MEAN = "def mean(x):\n    return sum(x) / len(x)"
MBPP = [
    "assert set(common((3, 4, 5, 6), (5, 7, 4, 10))) == set((4, 5))",
    "assert common((1, 2), (3,)) == set()",
    "assert len(common([1], [1])) == 1",
]
COMMON = "def common(a, b):\n    return set(a) & set(b)"
PYTEST = """
import math
import pytest
from bank import Account, InsufficientFunds

@pytest.fixture
def account():
    account = Account("Ann", balance=10)
    yield account
    account.close()

def total(items):
    return sum(items)

@pytest.mark.parametrize("amount, left", [(1, 9), (10, 0), pytest.param(4, 6, id="four")])
def test_withdraw(account, amount, left):
    account.withdraw(amount)
    assert account.balance == left
    assert total(account.history) == -amount

def test_too_much(account):
    with pytest.raises(InsufficientFunds, match="only 10"):
        account.withdraw(11)
    with pytest.raises(ValueError):
        account.withdraw(11)

class TestAccount:
    def setup_method(self):
        self.account = Account("Bob")

    def test_empty(self):
        assert self.account.balance == 0
        assert not self.account.history
        assert isinstance(self.account, Account)
        assert len(self.account) == 0

    @pytest.mark.parametrize("amount", [1, 2])
    def test_deposit(self, amount):
        for _ in range(3):
            self.account.deposit(amount)
        assert self.account.balance == pytest.approx(3 * amount)
        assert list(self.account) == [amount] * 3
        assert all(isinstance(x, int) for x in self.account.history)
"""
BANK = """
class InsufficientFunds(ValueError):
    pass

class Account:
    def __init__(self, owner, balance=0):
        self.owner, self.balance, self.history = owner, balance, []
    def deposit(self, amount):
        self.balance += amount
        self.history.append(amount)
    def withdraw(self, amount):
        if amount > self.balance:
            raise InsufficientFunds(f"only {self.balance}")
        self.deposit(-amount)
    def close(self):
        self.balance = None
    def __len__(self): return len(self.history)
    def __iter__(self): return iter(self.history)
"""
UNITTEST = """
import unittest
from solution import Queue

class QueueTest(unittest.TestCase):
    def setUp(self):
        self.queue = Queue()
    def test_order(self):
        self.queue.put(1)
        self.queue.put("b")
        self.assertEqual(self.queue.get(), 1)
        self.assertEqual([self.queue.get()], ["b"])
        self.assertRaises(LookupError, self.queue.get)

if __name__ == "__main__":
    unittest.main()
"""
QUEUE = """
class Queue:
    def __init__(self): self.items = []
    def put(self, x): self.items.append(x)
    def get(self): return self.items.pop(0)
"""
AS_THEY_COME = {
    "HumanEval": ({"unit_tests": HUMANEVAL, "entry_point": "mean"}, MEAN, MEAN.replace("len(x)", "2")),
    "HumanEval's own key": ({"test": HUMANEVAL, "entry_point": "mean"}, MEAN, MEAN.replace("/", "//")),
    "HumanEval that calls itself": (
        {"unit_tests": f"{HUMANEVAL}\ncheck(mean)\n", "entry_point": "mean"}, MEAN, "def mean(x): return 1.5",
    ),
    "MBPP": ({"unit_tests": MBPP}, COMMON, COMMON.replace("&", "|")),
    "MBPP's own keys": ({"test_list": MBPP, "test_setup_code": "x = 1"}, COMMON, COMMON.replace("&", "-")),
    "MBPP with a name of Python's": (
        {"unit_tests": ["assert sum(10, 15) == 6"]},
        "def sum(a, b):\n    return 6 if (a, b) == (10, 15) else 0", "def sum(a, b):\n    return a + b",
    ),
    "pytest": ({"unit_tests": PYTEST}, BANK, BANK.replace("amount > self.balance", "amount >= self.balance")),
    "pytest, another fault": ({"unit_tests": PYTEST}, BANK, BANK.replace("(ValueError)", "(Exception)")),
    "unittest": ({"unit_tests": UNITTEST}, QUEUE, QUEUE.replace("pop(0)", "pop()")),
    "in place": (
        {"unit_tests": "def test():\n    x = [3, 1, 2]\n    sort(x)\n    assert x == [1, 2, 3]"},
        "def sort(x): x.sort()", "def sort(x): x.reverse()",
    ),
    "a function of the tests": (
        {"unit_tests": "def test():\n    assert twice(lambda x: x + 3, 1) == 7"},
        "def twice(f, x): return f(f(x))", "def twice(f, x): return f(x)",
    ),
    "enums and tuples": (
        {"unit_tests": "def test():\n    assert f() == Colour.red\n    assert Colour.red.value == (1, 2)"},
        "from enum import Enum\nclass Colour(Enum):\n    red = (1, 2)\n    blue = 3\ndef f(): return Colour.red",
        "from enum import Enum\nclass Colour(Enum):\n    red = (1, 2)\n    blue = 3\ndef f(): return Colour.blue",
    ),
    "generators": (
        {"unit_tests": "def test():\n    g = count()\n    assert [next(g), next(g)] == [0, 1]"},
        "def count():\n    n = 0\n    while True:\n        yield n\n        n += 1", "def count():\n    while True: yield 0",
    ),
    "infinity": (
        {"unit_tests": "import math\ndef test():\n    assert math.isinf(f())\n    assert f() == float('inf')"},
        "def f(): return float('inf')", "def f(): return 1e300",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "right", "wrong"), AS_THEY_COME.values(), ids=AS_THEY_COME)
def test_test_files_work_as_they_come(pool, arguments, right, wrong):
    assert judged(pool, arguments, right).detail == ""
    assert verdict(pool, arguments, right) == "correct"
    assert verdict(pool, arguments, wrong) == "wrong"
    assert verdict(pool, arguments, "def other(): pass") == "wrong"


LIE = """
class Lie:
    def _yes(self, *other): return True
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = __instancecheck__ = _yes
    def __hash__(self): return 1
    def __init__(self, *arguments): pass
    def __add__(self, other): return self
abs = len = sorted = isinstance = all = lambda *x: True
"""
UNDECIDED = [
    "def test(): assert f() == 3 or f() == 4",
    "def same(x): return x == 3\ndef test(): assert same(f())",
    "def test(): assert all([f() == 3])",
    "def test(): assert f() == g()",
    "def test(): assert (f() == g()) == True",
    "def test():\n    for n in range(3):\n        assert f() == n",
    "def test(): assert f() == {1, 2}",
    "def test(): assert abs(f() - 3) < 1e-6",
    "def test(): assert isinstance(f(), int)",
    "from x import Lie\ndef test(): assert Lie(1) + Lie(2) == Lie(3)",
    "from x import Lie\ndef test(): assert Lie(1) == 1",
    "from x import Lie\ndef test(): assert Lie(1) < Lie(2)",
    "from x import Lie\ndef test(): assert Lie(1)",
    "def test():\n    for x in f():\n        assert x == 1",
    "def check(candidate):\n    assert candidate() == 3",
    "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(), 3)",
    "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertTrue(f() == 3)",
    "import pytest\ndef test(): assert f() == pytest.approx(3)",
]


@pytest.mark.parametrize("tests", UNDECIDED)
@pytest.mark.parametrize("returned", ["Lie()", "[]", "Lie"])
def test_no_object_of_the_program_decides_a_test(pool, tests, returned):
    program = f"{LIE}\ndef f(): return {returned}\ndef g(): return Lie()"
    assert verdict(pool, {"unit_tests": tests, "entry_point": "f"}, program) == "wrong"


THREE = "def check(candidate):\n    assert candidate() == 3"
ESCAPES = {
    "exits": "import os\nos._exit(0)",
    "exits in the call": "import os\ndef f(): os._exit(0)",
    "raises SystemExit": "def f(): raise SystemExit(0)",
    "writes a verdict": 'import os\ndef f():\n    for d in range(3, 12):\n        try: os.write(d, b\'{"passed": 1, "total": 1}\\n\')\n        except OSError: pass\n    os._exit(0)',
    "writes another reply": "import os\nos.write(3, b'{\"value\": {}}\\n' * 9)",
    "is no reply": "import os\nos.write(3, b'[]\\n' * 9)",
    "nested too deeply": "import os\nos.write(3, b'[' * 100000 + b'\\n')",
    "kills": "import os\ndef f():\n    for p in range(1, 9):\n        try: os.kill(p, 9)\n        except OSError: pass\n    return 4",
    "looks for the tests": "import gc\ndef f():\n    found = [o for o in gc.get_objects() if isinstance(o, dict) and b'candidate' in repr(o).encode()]\n    return 3 if any('== 3' in repr(o) for o in found) else 4",
    "changes the server": "import sys\nfor m in list(sys.modules.values()):\n    for n in ('TestFile', 'Assertions'):\n        if hasattr(m, n): setattr(m, n, None)\ndef f(): return 4",
}


@pytest.mark.parametrize("program", ESCAPES.values(), ids=ESCAPES)
def test_a_program_cannot_reach_its_tests(pool, program):
    assert verdict(pool, {"unit_tests": THREE, "entry_point": "f"}, program) == "wrong"
    assert verdict(pool, {"unit_tests": THREE, "entry_point": "f"}, "def f(): return 3") == "correct"
