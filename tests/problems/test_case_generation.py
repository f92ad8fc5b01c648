"""Test cases from generators and known submissions: two phases, then real programs in the sandbox."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.problem import Problem, to_table
from tasks.problems import test_cases
from tasks.problems.draw import draw
from tasks.problems.sources.parquet import ParquetFile
from tasks.problems.stage import ProblemsConfig
from tasks.problems.test_cases import add_generators, code_blocks, generate, select
from tasks.rewards.pool import VerifierPool
from tasks.rollout.settings import Sampling
from tasks.rollout.text import Written
from tasks.sandbox import Sandbox
from tasks.tables import PROBLEMS

RIGHT = (
    "input(); print(max(map(int, input().split())))",
    "n = int(input())\nnumbers = sorted(int(w) for w in input().split())\nprint(numbers[-1])",
)
POSITIVE_ONLY = "input()\nbest = 0\nfor w in input().split(): best = max(best, int(w))\nprint(best)"
FIRST = "input(); print(input().split()[0])"
SLOW = (
    "input(); numbers = [int(w) for w in input().split()]\n"
    "print(next(a for a in numbers if all(a >= b for b in numbers for _ in range(200) for _ in range(200))))"
)
SMALL = "n = random.randint(2, 5)\nprint(n)\nprint(*[random.randint(0, 9) for _ in range(n)])"
NEGATIVE = "print(3)\nprint(-random.randint(1, 9), -5, -7)"
LARGE = "print(4000)\nprint(*range(4000))"
INVALID = "print(2)\nprint()"


@pytest.fixture(scope="module")
def sandbox():
    opened = Sandbox()
    yield opened
    opened.close()


@pytest.fixture
def short_limit(monkeypatch):
    monkeypatch.setattr(test_cases, "SECONDS", 1.0)


def test_the_first_phase_drops_inputs_on_which_right_submissions_differ_or_fail():
    found = select([[b"1\n", b"2", b"3", None], [b"1", b"2\n", b"4", b"5"]], [])
    assert (found.kept, found.invalid) == ([0, 1], [2, 3])


def test_the_second_phase_keeps_the_fewest_inputs_that_expose_what_can_be_exposed():
    right = [[b"a", b"b", b"c", b"d"]]
    wrong = [
        [b"a", b"?", b"c", b"d"],
        [b"a", b"?", b"?", b"d"],
        [b"a", b"b", b"c", None],
        [b"a", b"b", b"c", b"d"],
    ]
    found = select(right, wrong, most=0)
    assert (found.kept, found.spare, found.unexposed) == ([1, 3], [0, 2], [3])
    assert select(right, wrong, most=3).kept == [0, 1, 3]


def test_without_a_right_submission_nothing_is_known():
    with pytest.raises(ValueError, match="no right submission"):
        select([], [[b"1"]])


outputs = st.lists(st.sampled_from([b"1", b"2", None]), min_size=5, max_size=5)


@given(st.lists(outputs, min_size=1, max_size=3), st.lists(outputs, max_size=4), st.integers(0, 5))
def test_whatever_was_printed_valid_inputs_are_kept_and_exposure_is_complete(right, wrong, most):
    found = select(right, wrong, most)
    assert sorted([*found.kept, *found.invalid, *found.spare]) == list(range(5))
    for i in [*found.kept, *found.spare]:
        assert {row[i] for row in right} in ({b"1"}, {b"2"})
    for number, row in enumerate(wrong):
        exposing = {i for i in [*found.kept, *found.spare] if row[i] != right[0][i]}
        assert bool(exposing) == (number not in found.unexposed)
        assert not exposing or exposing & set(found.kept)


@pytest.mark.slow
def test_programs_in_the_sandbox_make_cases_that_expose_wrong_and_slow_ones(sandbox, short_limit):
    made = generate(
        sandbox, [SMALL, NEGATIVE, LARGE, INVALID, "exit(1)"], RIGHT, [POSITIVE_ONLY, FIRST, SLOW]
    )
    assert made.selection.unexposed == []
    assert made.failed_draws == 3 + 3 + 4  # the large and the invalid one repeat themselves, the last fails
    assert len(made.selection.invalid) == 1
    cases = [{"stdin": case.stdin, "stdout": case.stdout} for case in made.cases]
    graded = Problem("p", "code", "en", "?", "", "code", {"cases": cases})
    with VerifierPool(workers=1, seconds_per_item=1.0) as pool:
        programs = [*RIGHT, POSITIVE_ONLY, FIRST, SLOW]
        texts = [f"<think> a </think> <answer> {program} </answer>" for program in programs]
        verdicts = [j.verdict.value for j in pool.verify([graded] * len(texts), texts)]
    assert verdicts == ["correct", "correct", "wrong", "wrong", "timeout"]


def test_the_same_generators_make_the_same_cases(sandbox):
    first, second = (generate(sandbox, [SMALL], RIGHT, [FIRST]) for _ in range(2))
    assert first == second
    assert len({case.stdin for case in first.cases}) > 1


def contest(identity: str, **arguments) -> Problem:
    return Problem(identity, "code", "en", f"Print the largest number. {identity}", "", "code", arguments)


def test_the_problems_stage_fills_cases_in_and_rejects_what_gets_none(tmp_path):
    from artifacts.tables import write_table

    both = {"right": list(RIGHT), "wrong": [FIRST]}
    rows = [
        contest("whole", submissions=both, generators=[SMALL]),
        contest("invalid", submissions=both, generators=[INVALID]),
        contest("nobody", submissions={"wrong": [FIRST]}, generators=[SMALL]),
        contest("given", cases=[{"stdin": "1\n1", "stdout": "1"}]),
    ]
    write_table(tmp_path / "problems.parquet", to_table(rows), PROBLEMS)
    problems, rejected = draw(ProblemsConfig(sources=(ParquetFile(path=str(tmp_path / "problems.parquet")),)))
    assert [p.id for p in problems] == ["whole", "given"]
    assert all(p.verifier_args["cases"] for p in problems)
    assert problems[0].verifier_args["unexposed"] == 0
    assert [(row["problem_id"], row["reason"]) for row in rejected] == [
        ("invalid", "no-test-cases"), ("nobody", "no-test-cases"),
    ]  # fmt: skip
    assert rejected[0]["detail"] == "3 draws failed, right submissions differ on 1 inputs"


class Writer:
    """An engine that answers every prompt with the same text and remembers what it was asked."""

    name = "writer"

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, []

    def generate(self, prompts, sampling, seed):
        self.asked += prompts
        return [Written(self.text, "stop", 1, 1) for _ in prompts]

    def close(self) -> None:
        pass


def test_a_model_is_asked_only_for_problems_that_lack_generators():
    writer = Writer(f"First:\n```python\n{SMALL}\n```\nand\n```\n{LARGE}\n```\nand ```python\nprint(")
    wanting, given_, other = (
        contest("a", submissions={}),
        contest("b", submissions={}, generators=["x"]),
        contest("c"),
    )
    done = list(add_generators([wanting, given_, other], writer, Sampling(max_new_tokens=64)))
    assert len(writer.asked) == 1
    assert wanting.prompt in writer.asked[0]
    assert done[0].verifier_args["generators"] == [f"{SMALL}\n", f"{LARGE}\n"]
    assert done[1:] == [given_, other]


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("no code", []), ("```python\nprint(1)\n```", ["print(1)\n"]), ("```py\na\n```\n```py\na\n```", ["a\n"]),
     ("```python\n\n```", [])],
)  # fmt: skip
def test_code_blocks(text, blocks):
    assert code_blocks(text) == blocks
