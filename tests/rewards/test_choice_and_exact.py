"""Choices by letter or text, and exact answers."""

import pytest

from tasks.rewards.verifiers.choice import choose
from tests.rewards.rows import completion, problem, verdict
from tests.timing import at_most

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


SUMS = {"A": "7", "B": "8", "C": "9", "D": "eight apples"}
NAMES_B = [
    *("B", "(B)", "B.", "B)", "[B]", "{B}", "**B**", "*B*", "__B__", "`B`", r"\(B\)", "$B$", r"\boxed{B}"),
    *('"B"', "“B”", "「B」"),
    *(
        r"\text{B}",
        r"\textbf{(B)}\ 8",
        r"\mathrm{(B)}",
        r"$\mathbf{B}$",
        "B: 8",
        "B - 8",
        "B — 8",
        "(B) 8.",
        "B、8",
    ),
    *("B: 8, since 4+4", "B since 4 + 4 = 8", "B\n\nBecause 4 + 4 = 8", "8, since 4+4", "8 (B)", "8"),
    *(
        "Final answer: B",
        "**Final Answer:** B",
        "The correct option is (B).",
        "My final answer is B",
        "It is B",
    ),
    *("B is correct", "B is the correct answer.", "Option B is right", "I choose B", "The answer is 8."),
    *("选择B", "选B", "故选B。", "正确答案是B", "答案：B", "B是正确的", "B。因为4+4=8"),
]
NAMES_NO_ONE = [
    *("A or B", "B or C", "B and C", "B/C", "B, C", "B: 8, or C", "B: 8 (not C), or (A)", "either B", "BC"),
    *(
        "B: 7",
        "B. 9",
        "A: 8, since 4+4",
        "C 8",
        "not B",
        "The answer is not B",
        "Neither A nor B",
        "Better",
        "80",
    ),
    *("8.5", "8 or 9", "B: 80", "B: 8.5", "all of the above", ""),
]


@pytest.mark.parametrize("answer", NAMES_B)
def test_ways_to_name_an_option(pool, answer):
    assert verdict(pool, problem("choice", "B", options=SUMS), answer) == "correct"
    assert verdict(pool, problem("choice", "C", options=SUMS), answer) == "wrong"


@pytest.mark.parametrize("answer", NAMES_NO_ONE)
def test_an_answer_that_names_two_options_or_none_is_not_right(answer):
    assert choose(SUMS, answer) is None


@pytest.mark.parametrize("gold", ["B", "(B)", "b", "B.", "B)", r"\text{B}", "**B**", "8", "B. 8"])
def test_golds_are_written_in_the_same_ways(pool, gold):
    assert verdict(pool, problem("choice", gold, options=SUMS), "B") == "correct"
    assert verdict(pool, problem("choice", gold, options=SUMS), "C") == "wrong"


@pytest.mark.parametrize(
    ("options", "gold", "right", "wrong"),
    [
        (["7", "8"], "B", "8", "7"),
        ({"1": "x", "2": "y"}, "2", "(2)", "1"),
        ({"(A)": "x", "(B)": "y"}, "(B)", "B. y", "A"),
        ({"a": 7, "b": 8}, "b", "B", "7"),
        ([r"$\frac{1}{2}$", "x^2"], "B", r"\(x^2\)", r"\frac{1}{2}"),
    ],
)
def test_other_labels_and_lists(pool, options, gold, right, wrong):
    asked = problem("choice", gold, options=options)
    assert verdict(pool, asked, right) == "correct"
    assert verdict(pool, asked, wrong) == "wrong"


@pytest.mark.parametrize(
    ("options", "gold", "reason"),
    [
        (SUMS, "E", "problem p: answer 'E' names no option: give one of A, B, C, D"),
        (SUMS, "1", "names no option"),
        (SUMS, "A or B", "names no option"),
        (None, "A", "problem p: verifier_args.options must be a list"),
        (["7"], "A", "verifier_args.options must be a list of 2 to 26"),
        ({"A": None, "B": "x"}, "A", "verifier_args.options['A'] must be text"),
        ({"A": "x", "(a)": "y"}, "A", "the label A twice"),
    ],
)
def test_a_gold_that_is_no_option_is_an_error_that_names_the_row(pool, options, gold, reason):
    (judged,) = pool.verify([problem("choice", gold, options=options)], [completion("A")])
    assert judged.verdict.value == "error"
    assert reason in judged.detail


@pytest.mark.parametrize(
    "text", ["B " + "(" * 100_000, "the " * 40_000, "答案" * 40_000, "B: 8 " + "or " * 40_000]
)
def test_long_answers_take_no_longer_than_their_length(text):
    with at_most(3):
        choose(SUMS, text)


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
