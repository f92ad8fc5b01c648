"""Decontamination: near copies are found however written; what tasks have in common is no copy."""
# ruff: noqa: E501  (long texts)

import random
import time

import pytest

from tasks.problem import Problem
from tasks.problems.decontamination import near_copies, words_of
from tasks.problems.draw import decontaminate

CLIPS = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)
JANET = (
    "Janet's ducks lay sixteen eggs per day. She eats three for breakfast and bakes muffins with four. She sells "
    "the remainder for $2 per egg. How much in dollars does she make every day?"
)
HOUSE = "A house costs $1,250,000 and loses 2.50% of its value each year. What is it worth after 12 years?"
ROOTS = r"Let $a$ and $b$ be the roots of $x^2 - 7x + 3 = 0$. Find the value of $\frac{a}{b} + \frac{b}{a}$."
TRAINS = "小明从家出发去学校，步行每分钟走60米，骑车每分钟走180米，骑车比步行少用12分钟，家到学校有多少米？"
TRIANGLE = "证明任意三角形的三条中线交于一点，并且这一点把每条中线分成二比一的两段。"
PAINT = """You are given a fence of n planks. Painting plank i costs c_i coins, and no two planks that touch may have
the same colour. Print the smallest cost of painting the whole fence.

Constraints: 1 <= n <= 100000 and 0 <= c_i <= 10^9. Print the answer modulo 10^9 + 7."""
ASKED = "What is the capital of Burkina Faso?"
SUM = "Compute 17 + 25 * 3."

COPIES = {
    "the same": (CLIPS, CLIPS),
    "case and spaces": (CLIPS, CLIPS.upper().replace(" ", "  ")),
    "a prefix": (CLIPS, f"Solve this word problem. {CLIPS}"),
    "a suffix": (CLIPS, f"{CLIPS} Put the answer in \\boxed{{}}."),
    "both": (JANET, f"Question: {JANET}\nLet's think step by step, and give the final answer after ####."),
    "a word changed": (CLIPS, CLIPS.replace("friends", "neighbours")),
    "a name changed": (CLIPS, CLIPS.replace("Natalia", "Anna")),
    "two words changed": (JANET, JANET.replace("Janet", "Maria").replace("muffins", "cakes")),
    "a word inserted": (HOUSE, HOUSE.replace("house costs", "small house costs")),
    "numbers as digits": (JANET, JANET.replace("sixteen", "16").replace("three", "3").replace("four", "4")),
    "numbers as words": (CLIPS, CLIPS.replace("48", "forty-eight")),
    "no thousands separator": (HOUSE, HOUSE.replace("1,250,000", "1250000").replace("2.50", "2.5")),
    "millions": (HOUSE, HOUSE.replace("$1,250,000", "1.25 million dollars")),
    "no dollar signs": (ROOTS, ROOTS.replace("$", "")),
    "other delimiters": (ROOTS, ROOTS.replace(" $", r" \(").replace("$ ", r"\) ").replace("$.", r"\).")),
    "fractions in a line": (ROOTS, ROOTS.replace(r"\frac{a}{b} + \frac{b}{a}", "a/b + b/a").replace("$", "")),
    "superscripts": (ROOTS, ROOTS.replace("x^2", "x²")),
    "full-width digits": (CLIPS, CLIPS.replace("48", "４８")),
    "full-width text": (CLIPS, "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in CLIPS)),
    "embedded in a long text": (CLIPS, f"{'She went to the market by bus. ' * 20}{CLIPS}{' That was all.' * 20}"),
    "two questions in one": (CLIPS, f"1. {HOUSE}\n2. {CLIPS}\n3. {JANET}"),
    "Chinese, a prefix": (TRAINS, f"请逐步推理，并将最终答案放在 \\boxed{{}} 中。{TRAINS}"),
    "Chinese, a name changed": (TRAINS, TRAINS.replace("小明", "小红")),
    "Chinese numerals": (TRAINS, TRAINS.replace("60", "六十").replace("180", "一百八十").replace("12", "十二")),
    "Chinese without numbers": (TRIANGLE, f"几何题：{TRIANGLE}"),
    "Chinese, a word changed": (TRIANGLE, TRIANGLE.replace("任意", "任何")),
    "Chinese digits": (TRIANGLE, TRIANGLE.replace("二比一", "2:1").replace("三", "3").replace("两", "2")),
    "a programming task": (PAINT, PAINT.replace("fence", "wall")),
    "without its constraints": (PAINT, PAINT.partition("\n\nConstraints")[0]),
    "a template of code around it": (PAINT, f"Write a Python function.\n{PAINT}\n```python\ndef solve(n, c):\n    ...\n```"),
    "short, a prefix": (ASKED, f"Answer the following question. {ASKED}"),
    "short, a suffix": (ASKED, f"{ASKED} Please reason step by step, and put your final answer within \\boxed{{}}."),
    "a short sum": (SUM, "Please compute $17 + 25 \\times 3$."),
    "a very short one": ("3 + 4 = ?", "３＋４＝？"),
}  # fmt: skip


@pytest.mark.parametrize(("held", "train"), COPIES.values(), ids=COPIES)
def test_a_near_copy_is_found(held, train):
    others = ["How far is the moon from the earth in kilometres?", PAINT[:60]]
    found = near_copies(
        [*others, train], ["鸡兔同笼，共有几只？", "Who wrote the novel about the white whale?", held], 10
    )
    assert found[:2] == [None, None]
    assert found[2] is not None
    assert found[2].question == 2
    assert found[2].share >= 0.6
    assert found[2].span in " ".join(words_of(held))


STEP = "Please reason step by step, and put your final answer within \\boxed{}."
LIMITS = "Constraints:\n1 <= n <= 2 * 10^5\n1 <= a_i, b_i <= 10^9\nThe sum of n over all test cases does not exceed 2 * 10^5."
DIFFERENT = {
    "constraints": (
        PAINT,
        "Count the ways to tile a board of size 2 by n with dominoes.\n\nConstraints: 1 <= n <= 100000 and "
        "0 <= c_i <= 10^9. Print the answer modulo 10^9 + 7.",
    ),
    "long constraints": (
        f"Each of n trees bears a_i pears and has thorns b_i. Choose trees with the most pears per thorn.\n{LIMITS}",
        f"A lift carries n people of weight a_i to floor b_i. Find the fewest trips that it must make.\n{LIMITS}",
    ),
    "modulo": (
        "How many permutations of 1..n have no fixed point? Give it modulo 10^9+7.",
        "How many binary strings of length n have no two ones beside each other? Give it modulo 10^9+7.",
    ),
    "step by step": (f"{CLIPS} {STEP}", f"{JANET} {STEP}"),
    "step by step, short": (f"How many primes are below 50? {STEP}", f"What is the area of a unit circle? {STEP}"),
    "Chinese instructions": (
        f"{TRAINS}请一步一步推理，并把最终答案写在 \\boxed{{}} 里。",
        "一个长方形的长是宽的三倍，周长为四十厘米，求面积。请一步一步推理，并把最终答案写在 \\boxed{} 里。",
    ),
    "another sum": (SUM, "Compute 17 + 26 * 3."),
    "a longer sum": ("Compute 3 + 4.", "Compute 3 + 4 * 5."),
    "a sum in a sum": ("What is 12 - 7?", "What is 12 - 7 + 2?"),
    "other numbers": (
        "A train goes 60 km in 2 hours. How far does it go in 5 hours at the same speed?",
        "A train goes 90 km in 3 hours. How far does it go in 7 hours at the same speed?",
    ),
    "another question about one story": (ASKED, "What is the capital of France?"),
    "one topic": (ROOTS, r"Let $p$ and $q$ be the roots of $3x^2 + 4x - 5 = 0$. Compute $p^3 + q^3$."),
    "Chinese, one topic": (TRAINS, "小红骑车去公园，每分钟走250米，走了8分钟，还剩全程的三分之一，全程有多少米？"),
    "input and output": (
        "Input: the first line contains an integer n. Output: print the number of divisors of n.",
        "Input: the first line contains an integer n. Output: print n written backwards in base seven.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("held", "train"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_tasks_have_in_common_is_no_copy(held, train):
    assert near_copies([train], [held], 10) == [None]
    assert near_copies([held], [train], 10) == [None]


def test_generated_questions_share_their_wording():
    """A template with 1,000 questions: only those with a held-out question's own numbers are copies."""
    rng = random.Random(0)
    texts = [
        f"Tom has {a} apples in a basket and buys {b} more at the market on Sunday morning. On the way home he "
        f"loses {c} of them. How many apples does Tom have now?"
        for a, b, c in (rng.sample(range(10, 99), 3) for _ in range(1_000))
    ]
    held, train = texts[:100], texts[100:]
    copies = [f"Here is a riddle for you. {text}" for text in held[:5]]
    found = near_copies([*train, *copies], held, 10)
    assert all(found[len(train) :])
    assert sum(match is not None for match in found[: len(train)]) <= 9, "1%"


def test_a_question_that_stands_a_hundred_times_is_no_wording():
    copies = [f"Exercise {n} of the book of week {n % 7}. {CLIPS}" for n in range(100)]
    assert all(near_copies(copies, [CLIPS, JANET], 10))


def test_wording_of_many_questions_is_learnt_from_the_set():
    """A phrase that is in no list: here every question has it, and it is longer than they are."""
    phrase = (
        "Your reply will be read by a machine, so be brief, use plain words, name no sources, keep to the metric "
        "system and finish with a full stop."
    )
    things = [
        "bread",
        "milk",
        "stone",
        "river",
        "cloud",
        "horse",
        "paper",
        "glass",
        "music",
        "winter",
        "garden",
        "letter",
    ]
    texts = [
        f"Why does {a} matter more to the {b} than {a}s once did? {phrase}" for a in things for b in things
    ]
    found = near_copies(texts[20:], texts[:20], 10)
    assert sum(match is not None for match in found) <= 2


def test_the_row_names_the_question_and_the_words():
    held = Problem("h-7", "math", "en", CLIPS, "72", "math", split="held_out")
    train = [
        Problem("t-1", "math", "en", f"Think hard. {CLIPS}", "72", "math"),
        Problem("t-2", "math", "en", HOUSE, "1", "math"),
    ]
    kept, rejected = decontaminate([train[0], held, train[1]], 10)
    assert kept == [held, train[1]]
    assert [(row["problem_id"], row["reason"]) for row in rejected] == [("t-1", "contaminated")]
    assert rejected[0]["detail"].startswith(
        "100% of held-out problem h-7: natalia sold clips to 48 of her friends"
    )


def test_a_shorter_setting_looks_at_shorter_questions():
    held, train = "add 1 then 2 then 3 then 4", "please add 1 then 2 then 3"
    assert near_copies([train], [held], 10) == [None]
    match = near_copies([train], [held], 5)[0]
    assert match is not None
    assert match.span == "add 1 then 2 then 3"


def test_nothing_held_out_finds_nothing():
    assert near_copies([CLIPS, ""], [], 10) == [None, None]
    assert near_copies([], [CLIPS], 10) == []
    assert near_copies(["", "?"], [CLIPS, ""], 10) == [None, None]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("twenty-five", "25"), ("two hundred and five", "205"), ("one two", "1 2"), ("3 million", "3000000"),
        ("1.5 thousand", "1500"), ("1,234,567", "1234567"), ("1{,}000", "1000"), ("007", "7"), ("0.50", "0.5"),
        ("二十五", "25"), ("一百零三", "103"), ("三万五千", "35000"), ("二〇二四", "2024"), ("3万", "30000"),
        ("x² + 1", "x ^ 2 + 1"), (r"$x \leq \dfrac{1}{2}$", "x <= 1 / 2"), ("x ≤ ½", "x <= 1 / 2"),
        ("$5", "5"), ("5 dollars", "5"), ("50\\%", "50 %"), ("６ × ７", "6 * 7"), ("`n`", "n"),
        ("someone", "someone"), ("thirteen thousand four hundred", "13400"),
    ],
)  # fmt: skip
def test_numbers_and_formulas_have_one_notation(written, words):
    assert " ".join(words_of(written)) == words


def test_time_grows_with_the_text_only():
    rng = random.Random(1)
    words = [f"word{n}" for n in range(5_000)]
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(3_800)]

    def seconds(count: int) -> float:
        started = time.process_time()
        near_copies(texts[:count], texts[-200:], 10)
        return time.process_time() - started

    seconds(100)
    assert seconds(3_600) < 12 * seconds(600) + 0.1
