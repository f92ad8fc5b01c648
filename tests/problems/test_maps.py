"""Ready maps: from files as the hub has them to golds that the verifier accepts."""

from pathlib import Path

import pytest

from tasks.problem import Problem
from tasks.problems.columns import ready_maps
from tasks.problems.draw import draw
from tasks.problems.sources.file import MappedFile
from tasks.problems.stage import ProblemsConfig
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict
from tests.problems.datasets import FIXTURES, write_dataset

FOUND = {  # (split, verifier, gold) of each problem, and the reasons of the rejected rows
    "gsm8k": ([("held_out", "math", "60"), ("train", "math", "42"), ("train", "math", "1,280")], []),
    "math": ([("train", "math", r"\frac{3}{4}"), ("held_out", "math", "5")], ["proof"]),
    "math-500": ([("held_out", "math", "-7, 7"), ("held_out", "math", "[0,3)")], []),
    "aime-2024": ([("held_out", "math", "011")], []),
    "aime-2025": ([("held_out", "math", "10"), ("held_out", "math", "11")], []),
    "gpqa": ([("held_out", "choice", None), ("held_out", "choice", None)], ["unusable-row"]),
    "dapo-math-17k": ([("train", "math", "6"), ("train", "math", "25")], ["duplicate"]),
    "big-math": ([("train", "math", r"\frac{3}{4}")], ["no-answer"]),
    "openr1-math": ([("train", "math", r"\frac{9}{2}")], ["language", "proof"]),
    "numinamath": ([("train", "math", "56"), ("train", "math", "9")], ["not-selected", "proof", "proof"]),
    "livecodebench": ([("held_out", "code", "")] * 3, []),
    "humaneval": ([("held_out", "code", None)], ["reference-fails"]),
    "ifeval": ([("held_out", "instructions", "")] * 2, ["unusable-row"]),
    "mbpp": ([("held_out", "code", None), ("train", "code", None)], []),
}


def source(folder: Path, name: str, **settings: object) -> MappedFile:
    return MappedFile.model_validate(
        {"path": str(write_dataset(folder / name, name)), "map": name} | settings
    )


def drawn(folder: Path, name: str, **settings: object):
    return draw(ProblemsConfig(sources=(source(folder, name, **settings),)))


def test_every_map_has_a_fixture():
    assert sorted(path.stem for path in FIXTURES.glob("*.json")) == ready_maps() == sorted(FOUND)


@pytest.mark.parametrize("name", FOUND)
def test_rows_become_problems(tmp_path, name):
    problems, rejected = drawn(tmp_path, name)
    expected, reasons = FOUND[name]
    assert [(p.split, p.verifier) for p in problems] == [(split, verifier) for split, verifier, _ in expected]
    assert all(gold is None or p.answer == gold for p, (_, _, gold) in zip(problems, expected, strict=True))
    assert sorted(row["reason"] for row in rejected) == reasons


@pytest.mark.parametrize("name", [name for name in FOUND if name not in ("livecodebench", "ifeval")])
def test_the_gold_is_accepted(tmp_path, name):
    problems = [p for p in drawn(tmp_path, name).problems if p.answer]
    answers = [f"```python\n{p.answer}\n```" if p.verifier == "code" else p.answer for p in problems]
    with VerifierPool() as pool:
        judged = pool.verify(problems, [f"<think></think><answer>{answer}</answer>" for answer in answers])
    assert problems
    assert {j.verdict for j in judged if j} == {Verdict.correct}


def test_contest_tasks_are_judged_by_their_cases_and_a_pickle_is_left_alone(tmp_path):
    square, add, _ = drawn(tmp_path, "livecodebench").problems
    assert square.metadata["tests_left_out"] == ["private_test_cases"]
    assert "tests_left_out" not in add.metadata
    assert len(add.verifier_args["cases"]) == 2
    programs = [
        "n = int(input())\nprint(n * n)",
        "class Solution:\n    def add(self, a, b):\n        return a + b",
        "class Solution:\n    def add(self, a, b):\n        return 3",
    ]
    texts = [f"<think></think><answer>```python\n{program}\n```</answer>" for program in programs]
    with VerifierPool() as pool:
        judged = pool.verify([square, add, add], texts)
    assert [j.verdict for j in judged if j] == [Verdict.correct, Verdict.correct, Verdict.wrong]


def test_a_question_newer_than_the_limit_is_rejected(tmp_path):
    problems, rejected = drawn(tmp_path, "livecodebench", until="2024-06-30")
    assert [p.metadata["question_id"] for p in problems] == ["q1", "q2"]
    assert [(row["reason"], row["detail"]) for row in rejected] == [
        ("too-new", "published 2025-01-04, the limit is 2024-06-30")
    ]


def test_options_are_shuffled_by_the_seed(tmp_path):
    gpqa = source(tmp_path, "gpqa")

    def correct(seed: int) -> list[str]:
        return [p.verifier_args["options"][p.answer] for p in gpqa.draw(seed).problems]

    assert {tuple(correct(seed)) for seed in range(8)} == {("gluon", "argon, a gas")}
    assert len({tuple(p.answer for p in gpqa.draw(seed).problems) for seed in range(8)}) > 2
    assert "A. " in gpqa.draw(0).problems[0].prompt


def test_instructions_around_a_question_are_removed(tmp_path):
    english, chinese = drawn(tmp_path, "dapo-math-17k").problems
    assert english.prompt == "How many primes lie between 10 and 30?"
    assert (english.language, chinese.language) == ("en", "zh")


def test_licence_domain_and_origin_are_recorded(tmp_path):
    problem: Problem = drawn(tmp_path, "gsm8k").problems[0]
    assert (problem.licence, problem.domain, problem.source, problem.id) == (
        "MIT",
        "math",
        "gsm8k",
        "gsm8k-0",
    )
