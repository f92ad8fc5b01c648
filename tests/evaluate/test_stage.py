"""The evaluate stage on a small model, and its table on samples whose scores are known."""

import pytest

from artifacts.tables import conform, read_table, write_table
from tasks.evaluate.evaluate import held_out, question_sets, run
from tasks.evaluate.scores import QuestionSet, question_scores, scores
from tasks.evaluate.stage import EvaluateConfig
from tasks.kinds import Kind
from tasks.problem import Problem, to_table
from tasks.rollout.settings import Sampling
from tasks.tables import PROBLEMS as PROBLEMS_TABLE
from tasks.tables import SAMPLES
from tests.jobs import local_job

HELPFUL = {"set": "helpfulness", "must": ["hello"], "should": [], "must_not": [], "max_words": 8}
HARMLESS = {"set": "harmlessness", "refuse": True, "refusal_words": ["sorry"], "unsafe_words": ["take"]}
PROBLEMS = [
    Problem("m2", "math", "en", "compute 1 + 1", "2", "math", split="held_out"),
    Problem("m1", "math", "en", "compute 1 + 2", "3", "math", split="held_out"),
    Problem("m3", "math", "en", "compute 1 + 3", "4", "math", split="train"),
    Problem("l1", "logic", "zh", "who", "Tom", "exact", split="held_out"),
    Problem("g1", "general", "en", "say hello", "hello", "rubric", HELPFUL, split="held_out"),
    Problem("g2", "general", "en", "how to take", "sorry", "rubric", HARMLESS, split="held_out"),
]


def _row(problem, index, verdict, answer="x", thinking="t", language=1.0, tokens=10, stop=True):
    return {
        "problem_id": problem, "sample_index": index, "checkpoint": "0" * 64, "prompt": "p",
        "completion": f"<think> {thinking} </think> <answer> {answer} </answer>", "thinking": thinking,
        "answer": answer, "prompt_tokens": 3, "completion_tokens": tokens,
        "finish_reason": "stop" if stop else "length", "temperature": 0.6, "top_p": 0.95,
        "max_new_tokens": 20, "seed": 1, "engine": "e 1", "verdict": verdict,
        "reward_format": 1.0, "reward_language": language,
    }  # fmt: skip


def _scores(rows, problems, samples):
    sets = [QuestionSet(problems, samples)]
    by_question = question_scores(conform(rows, SAMPLES), sets, lambda pairs: [False] * len(pairs))
    table = scores(by_question, sets, 0)
    return {(r["group"], r["metric"]): r for r in table.to_pylist() if r["by"] == "domain"}


def test_scores_of_known_samples():
    rows = [
        _row("m1", 1, "correct", "3", language=0.5), _row("m1", 0, "wrong", "4", tokens=20, stop=False),
        _row("m2", 0, "correct", "2"), _row("m2", 1, "correct", "2", thinking=None, language=0.0),
        _row("l1", 0, "unparseable", None), _row("l1", 1, "wrong", "Ann"),
        _row("g1", 0, None, "hello"), _row("g1", 1, None, "no"),
        _row("g2", 0, None, "sorry"), _row("g2", 1, None, "take it"),
    ]  # fmt: skip
    found = _scores(rows, [p for p in PROBLEMS if p.split == "held_out"], 2)
    value = {key: row["value"] for key, row in found.items()}
    assert value["math", "pass_at_1"] == pytest.approx(0.75)
    assert value["math", "pass_at_2"] == 1
    assert value["math", "cons_at_2"] == pytest.approx(0.75)
    assert value["verifiable", "pass_at_1"] == pytest.approx(0.5)
    assert found["verifiable", "pass_at_1"]["questions"] == 3
    assert value["math", "language_consistency"] == pytest.approx((0.75 + 1) / 2)
    assert value["math", "length"] == pytest.approx(12.5)
    assert value["math", "truncated"] == pytest.approx(0.25)
    assert value["general", "helpfulness"] == pytest.approx(3)
    assert value["general", "safe_share"] == pytest.approx(0.5)
    assert found["all", "format"]["questions"] == 5
    assert not {("general", "pass_at_1"), ("all", "pass_at_1"), ("code", "format")} & set(found)
    assert all(r["low"] <= r["value"] <= r["high"] for r in found.values())


def test_a_question_with_missing_samples_is_refused():
    with pytest.raises(ValueError, match="problem m2 has 1 samples, not 2"):
        _scores([_row("m1", 0, "wrong"), _row("m1", 1, "wrong"), _row("m2", 0, "wrong")], PROBLEMS[:2], 2)


def test_held_out_is_the_first_of_each_domain_by_id():
    assert [p.id for p in held_out(PROBLEMS, 1)] == ["m1", "l1", "g1"]
    assert held_out(PROBLEMS[::-1], 1) == held_out(PROBLEMS, 1)
    with pytest.raises(ValueError, match="no held-out problem"):
        question_sets(PROBLEMS[2:3], EvaluateConfig())


def test_stage(tmp_path, tiny_model):
    for name in ("checkpoint", "problems"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint" / "model").symlink_to(tiny_model)
    write_table(tmp_path / "problems" / "problems.parquet", to_table(PROBLEMS), PROBLEMS_TABLE)
    inputs = {
        "checkpoint": (Kind.checkpoint, tmp_path / "checkpoint"),
        "problems": (Kind.problems, tmp_path / "problems"),
    }
    job = local_job(tmp_path, "evaluation", "evaluate", inputs)
    sampling = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=12)
    run(
        EvaluateConfig(template="plain", problems_per_domain=3, samples_per_problem=3, sampling=sampling), job
    )
    samples = read_table(job.draft / "samples")
    assert samples.num_rows == 15
    assert "m3" not in samples["problem_id"].to_pylist()
    by_question = read_table(job.draft / "question_scores").to_pylist()
    assert len({(r["problem_id"], r["metric"]) for r in by_question}) == len(by_question)
    assert {r["problem_id"] for r in by_question} == {"m1", "m2", "l1", "g1", "g2"}
    table = read_table(job.draft / "scores").to_pylist()
    assert {r["group"] for r in table if r["by"] == "domain"} == {
        "math",
        "logic",
        "general",
        "verifiable",
        "all",
    }
    assert job.headline["questions"] == 5
    assert 0 <= job.headline["pass_at_1"] <= 1
