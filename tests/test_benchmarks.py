"""Named benchmarks: from a copy in the hub's layout to questions that are asked as the paper asks them."""

import json
from pathlib import Path

import pytest

from artifacts.tables import read_table
from flows.feasible import complaints
from tasks import benchmarks
from tasks.evaluate.evaluate import question_sets
from tasks.evaluate.stage import EVALUATE, EvaluateConfig
from tasks.presets import PresetError, read_preset
from tasks.problem import from_table
from tasks.problems.draw import cleaned, draw
from tasks.problems.draw import run as run_problems
from tasks.problems.stage import ProblemsConfig
from tasks.recipe import Node
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict
from tests.jobs import local_job
from tests.problems.datasets import fixture, write_dataset, write_rows

RIGHT = {
    "ifeval": "Rain falls. Rain makes all of it grow.",
    "livecodebench": None,  # its cases are judged in tests/problems/test_maps.py
}
"""Answers that are correct and do not stand in the gold."""


def config(folder: Path, name: str, **settings) -> EvaluateConfig:
    path = write_dataset(folder / name, benchmarks.defaults(name)["map"])
    return EvaluateConfig.model_validate({"benchmarks": {name: {"path": str(path), **settings}}})


def problems_of(evaluation: EvaluateConfig) -> ProblemsConfig:
    given = evaluation.benchmarks.items()
    return ProblemsConfig.model_validate({"sources": [settings.source(name) for name, settings in given]})


@pytest.mark.parametrize("name", benchmarks.known())
def test_a_copy_becomes_questions_whose_gold_is_accepted(tmp_path, name):
    evaluation = config(tmp_path, name, since=None)
    problems = draw(problems_of(evaluation)).problems
    assert problems
    assert {(p.source, p.split) for p in problems} == {(name, "held_out")}
    assert all(p.id.startswith(f"benchmark-{name}-") and p.metadata["data_set"] for p in problems)
    (asked,) = question_sets(problems, evaluation)
    prompt = benchmarks.defaults(name).get("prompt", "{question}")
    for problem, question in zip(problems, asked.problems, strict=True):
        assert question.prompt == prompt.replace("{question}", problem.prompt)
    assert asked.samples == benchmarks.defaults(name)["samples"]
    golds = [(p, RIGHT.get(name, p.answer)) for p in asked.problems]
    golds = [(p, f"```python\n{a}\n```" if p.verifier == "code" else a) for p, a in golds if a]
    with VerifierPool() as pool:
        found = pool.verify([p for p, _ in golds], [f"<think></think><answer>{a}</answer>" for _, a in golds])
    assert {j.verdict for j in found if j} == ({Verdict.correct} if golds else set())


def test_the_papers_numbers_of_samples():
    given = {name: benchmarks.defaults(name)["samples"] for name in benchmarks.known()}
    assert given | {"aime24": 64, "gpqa-diamond": 64, "math500": 16, "livecodebench": 8} == given
    assert all(4 <= samples <= 64 for samples in given.values())


def test_a_file_of_another_name_is_the_benchmark(tmp_path):
    rows = fixture("gsm8k")["main/test-00000-of-00001.parquet"]
    path = write_rows(tmp_path / "mine.jsonl", rows)
    settings = EvaluateConfig.model_validate({"benchmarks": {"gsm8k": {"path": str(path)}}})
    assert len(draw(problems_of(settings)).problems) == len(rows)


def test_only_the_test_rows_of_a_set_with_training_rows_are_asked(tmp_path):
    assert [p.answer for p in draw(problems_of(config(tmp_path, "gsm8k"))).problems] == ["60"]


def test_levels_come_from_the_map(tmp_path):
    levels = [
        p.level for p in draw(problems_of(config(tmp_path, "livecodebench", since=None, until=None))).problems
    ]
    assert levels == [1, 3, 5]


def test_contest_questions_of_the_papers_months(tmp_path):
    drawn = draw(problems_of(config(tmp_path, "livecodebench")))
    assert {p.metadata["contest_date"][:7] for p in drawn.problems} == {"2025-01"}
    assert {row["reason"] for row in drawn.rejected} == {"too-old"}


def test_training_problems_that_copy_a_benchmark_are_dropped(tmp_path):
    question = fixture("math-500")["test.jsonl"][0]["problem"]
    copy = write_rows(
        tmp_path / "train.jsonl",
        [{"q": f"Please solve: {question}", "a": "-7, 7"}, {"q": "How many primes are below 12?", "a": "5"}],
    )
    path = write_dataset(tmp_path / "math", "math-500")
    preset = {
        "problems.sources": [
            {"name": "file", "path": str(copy), "map": {"question": ["q"], "answer": ["a"]}}
        ],
        "evaluation.benchmarks": {"math500": {"path": str(path)}},
    }
    problems = read_preset("tiny", preset).problems
    cleaning = cleaned(problems, tmp_path / "spool")
    kept = [p for table in cleaning.kept() for p in from_table(table)]
    assert [p.source for p in kept if p.split == "held_out"] == ["math500", "math500"]
    assert [p.prompt for p in kept if p.split == "train"] == ["How many primes are below 12?"]
    (dropped,) = [row for table in cleaning.rejected() for row in table.to_pylist()]
    assert (dropped["reason"], "benchmark-math500-0" in dropped["detail"]) == ("contaminated", True)


def test_a_benchmark_without_a_question_ends_the_stage(tmp_path):
    job = local_job(tmp_path, "problems", "problems", {})
    with pytest.raises(ValueError, match="no question of benchmark livecodebench is left"):
        run_problems(problems_of(config(tmp_path, "livecodebench", since="2030-01-01", until=None)), job)


def test_problems_without_the_benchmark_are_refused_before_the_run():
    asked = read_preset("tiny", {"evaluation.benchmarks": {"aime24": {}, "math500": {}}}).evaluation
    found = {"train_math": 90, "held_out_math": 40, "benchmark_math500": 10}
    (said,) = complaints({"evaluation": Node("evaluation", EVALUATE, asked)}, found)
    assert said.startswith("evaluation: the problems hold no question of benchmark aime24:")


def test_problems_of_benchmarks_alone_need_no_training_split(tmp_path):
    job = local_job(tmp_path, "problems", "problems", {})
    run_problems(problems_of(config(tmp_path, "aime24")), job)
    assert read_table(job.draft / "problems")["source"].to_pylist() == ["aime24"]
    assert job.headline["benchmark_aime24"] == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation.benchmarks": {"aime42": {}}}, "there is no benchmark 'aime42': use one of aime24,"),
        (
            {"evaluation.benchmarks": {"mine": {"map": "nothing", "samples": 4}}},
            "there is no ready map 'nothing'",
        ),
        ({"evaluation.benchmarks": {"aime24": {"smaples": 4}}}, "did you mean samples?"),
        (
            {"evaluation.benchmarks": {"aime24": {"prompt": "Solve."}}},
            "holds {question} 0 times: write it once",
        ),
        ({"evaluation.pass_at": [1, 8]}, "pass@8 needs at least 8 samples a question, there are 4"),
        (
            {"evaluation.benchmarks": {"aime24": {"samples": 4, "pass_at": [16]}}},
            "benchmarks.aime24: pass@16 needs at least 16 samples a question, there are 4",
        ),
    ],
)
def test_a_preset_is_refused_before_any_work(changes, said):
    with pytest.raises(
        PresetError, match="(?s)" + said.replace("(", r"\(").replace("?", r"\?").replace("{", r"\{")
    ):
        read_preset("tiny", changes)


def test_the_settings_of_a_benchmark_decide_the_key():
    documents = [
        json.dumps(EvaluateConfig.model_validate({"benchmarks": given}).cache_document())
        for given in ({}, {"aime24": None}, {"aime24": {"samples": 8}}, {"aime24": {}, "math500": {}})
    ]
    assert len(set(documents)) == 4
    assert documents[1] == json.dumps(
        EvaluateConfig.model_validate({"benchmarks": {"aime24": {"samples": 64}}}).cache_document()
    )
