"""Choices by letter or text, and exact answers."""

import pytest

from tests.rewards.rows import problem, verdict

OPTIONS = {"A": "12", "B": "13", "C": "red wine", "D": "12 km"}
CHOICES = {
    "B": "correct", "b": "correct", "(B)": "correct", "[b]": "correct", "B.": "correct", "B. 13": "correct",
    r"\text{B}": "correct", r"$B$": "correct", "**B**": "correct", "选项B": "correct",
    "答案是 B": "correct", "Ｂ": "correct",
    "The correct answer is B": "correct", "13": "correct",
    "A": "wrong", "12": "wrong", "red wine": "wrong", "RED  WINE.": "wrong",
    "B. 12": "unparseable", "E": "unparseable", "A or B": "unparseable", "banana": "unparseable",
    "AB": "unparseable",
}  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), CHOICES.items())
def test_choices(pool, answer, expected):
    assert verdict(pool, problem("choice", "B", options=OPTIONS), answer) == expected


def test_an_option_text_that_two_options_share_means_neither(pool):
    asked = problem("choice", "B", options={"A": "12", "B": "12"})
    assert verdict(pool, asked, "12") == "unparseable"
    assert verdict(pool, asked, "B") == "correct"


def test_a_letter_in_a_box(pool):
    judged = pool.verify([problem("choice", "A", options=OPTIONS)], [r"<think> a </think> \boxed{A}"])[0]
    assert judged.verdict.value == "correct"


def test_a_one_word_text_that_starts_with_a_letter_is_the_text(pool):
    asked = problem("choice", "A", options={"A": "B flat", "B": "A flat"})
    assert verdict(pool, asked, "B flat") == "correct"


EXACT = [
    ("Ann Bob", " ann  bob. ", "correct"),
    ("汤姆", "汤姆。", "correct"),
    ("12", "１２", "correct"),
    ("Ann", "Ann Bob", "wrong"),
]


@pytest.mark.parametrize(("gold", "answer", "expected"), EXACT)
def test_exact(pool, gold, answer, expected):
    assert verdict(pool, problem("exact", gold), answer) == expected


GYM = ["chain_sum", "letter_counting", "syllogism", "simple_equations", "leg_counting"]


@pytest.mark.parametrize("dataset", GYM)
def test_logic_is_scored_by_reasoning_gym(pool, dataset):
    import reasoning_gym

    entry = reasoning_gym.create_dataset(dataset, size=1, seed=3)[0]
    asked = problem("reasoning_gym", dataset=dataset, entry=entry)
    assert verdict(pool, asked, str(entry["answer"])) == "correct"
    assert verdict(pool, asked, "987654") == "wrong"
