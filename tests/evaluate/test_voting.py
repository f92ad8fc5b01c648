"""Equivalent answers vote together, correct or not."""

import pytest

from tasks.evaluate.estimators import consensus
from tasks.evaluate.voting import verified_equivalence, votes
from tasks.problem import Problem
from tasks.rewards.pool import VerifierPool

HALF = Problem("m", "math", "en", "halve 1", "0.5", "math")


def judged(problem, pool, *answers):
    """Samples with these answers (None: no final answer), judged against the problem."""
    completions = ["no answer" if a is None else f"<answer> {a} </answer>" for a in answers]
    found = pool.verify([problem] * len(answers), completions)
    return [{"answer": j.extracted, "verdict": j.verdict.value} for j in found]


def cons(problem, rows, same):
    (cast,) = votes([(problem, rows)], same)
    return consensus(cast, [row["verdict"] == "correct" for row in rows])


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(workers=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def same(pool):
    return verified_equivalence(pool)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (("1/2", "0.5", "2", "3"), 1),  # two texts of one answer, ahead of two single votes
        (("1/2", "0.5", "2", "2"), 0.5),  # a tie between two answers
        (("2/4", r"\frac{1}{2}", "0.5", "2", "2"), 1),
        (("0.5", "0.5", "2", "4/2", "2.0"), 0),  # wrong answers that are equal vote together too
        (("0.5", "0.5", "x+x", "2x", "x*2"), 0),  # ... where only math-verify can tell
        (("0.5", "0.5", "x+x", "2y", "x*3"), 1),  # three different ones
        (("0.5", "?!", "?!"), 0),  # unreadable answers vote by their text
        (("0.5", None, None), 1),
        ((None, None), 0),
        (("0.5", "1/2", r"\frac{1}{2}", "2", "2"), 1),
        (("x=0.5", "**1/2**", "0.5 m", "7", "x = 7"), 1),
        (("0.5", "1,000", "1000", "1 000"), 0),
    ],
)
def test_cons_at_k_by_verified_equivalence(answers, expected, pool, same):
    rows = judged(HALF, pool, *answers)
    assert cons(HALF, rows, same) == expected
    assert cons(HALF, rows[::-1], same) == expected


def test_letters_in_other_forms_are_one_candidate(pool, same):
    letters = Problem("c", "stem", "en", "?", "B", "choice", {"options": {"A": "1", "B": "2", "C": "3"}})
    assert cons(letters, judged(letters, pool, "B", "(B)", "2", "A", "A"), same) == 1
    assert cons(letters, judged(letters, pool, "B", "B", "A", "(A)", "**A**"), same) == 0


def test_other_verifiers_compare_the_folded_text(pool, same):
    tom = Problem("l", "logic", "en", "who", "Tom", "exact")
    assert cons(tom, judged(tom, pool, "Tom ", "tom", "Ann", "ANN"), same) == 0.5
    program = Problem("c", "code", "en", "write f", "", "code", {"entry_point": "f", "cases": []})
    rows = [
        {"answer": a, "verdict": v} for a, v in (("X = 1", "wrong"), ("x = 1", "wrong"), ("y", "correct"))
    ]
    assert cons(program, rows, same) == pytest.approx(1 / 3)


def test_only_distinct_wrong_answers_are_compared():
    asked = []

    def same(pairs):
        asked.extend((gold, answer) for _, gold, answer in pairs)
        return [False] * len(pairs)

    rows = [{"answer": a, "verdict": "wrong"} for a in ("7", "7", " 7", "8", "9")]
    rows += [{"answer": "0.5", "verdict": "correct"}] * 3
    rows += [{"answer": "9^9^9", "verdict": "timeout"}, {"answer": "??", "verdict": "unparseable"}]
    votes([(HALF, rows), (HALF, rows[:3])], same)
    assert asked == [("7", "8"), ("7", "9"), ("8", "9")]
