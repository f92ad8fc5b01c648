"""Evaluation during RL: which questions, what is measured, and that training does not notice it."""

import sys
import time
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest

from artifacts.tables import conform, read_table
from tasks.kinds import Kind
from tasks.problem import Problem
from tasks.rl.stage import RLConfig
from tasks.rollout.engines import ENGINES, EngineEntry
from tasks.rollout.engines.transformers import TransformersEngine
from tasks.rollout.settings import EngineSettings
from tasks.tables import METRICS, SAMPLES
from tasks.training.settings import LaunchSettings
from tests.jobs import killed_at, local_job
from tests.rl.test_rl import CONFIG, assert_same_run, finished
from tests.worlds import sums, talks, write_problems

EVALUATED = CONFIG.model_copy(
    update={
        "steps": 5, "evaluate_every": 2, "evaluate_problems": 3, "evaluate_samples": 4,
        "domains": ("math", "general"), "mini_batches_per_rollout": 1,
    }
)  # fmt: skip
STEPS = [0, 2, 4, 5]
"""Every second step, and the last."""


def held_out() -> list[Problem]:
    """Held-out sums of the same form as `sums`, not in the order of their ids."""
    return [replace(p, id=f"held-{p.id}", split="held_out") for p in reversed(sums()[:5])]


def sample(problem: str, verdict: str, answer: str | None, **columns) -> dict:
    return {
        "problem_id": problem, "sample_index": 0, "checkpoint": "c", "prompt": "", "completion": "",
        "prompt_tokens": 1, "completion_tokens": 10, "finish_reason": "stop", "temperature": 0.6,
        "top_p": 0.95, "max_new_tokens": 20, "seed": 0, "engine": "e", "thinking": "so", "answer": answer,
        "verdict": verdict, "reward_format": 1.0, "reward_language": 1.0,
    } | columns  # fmt: skip


def test_the_questions_are_the_first_held_out_ones_by_id_that_a_rule_judges():
    from tasks.rl.evaluation import fixed_questions

    free = replace(held_out()[0], id="aaa", verifier="judge")
    problems = [*sums(), *held_out(), free, *(replace(p, split="held_out") for p in talks())]
    chosen = fixed_questions(problems, EVALUATED)
    assert [p.id for p in chosen] == ["held-sum-00", "held-sum-01", "held-sum-02"]
    with pytest.raises(
        ValueError, match="evaluate_every is 2, and the problems hold no held-out row of math"
    ):
        fixed_questions(sums(), EVALUATED)


def test_the_metrics_of_a_step():
    """Two questions of four samples: 3 of 4 correct, and 1 correct against two equal wrong answers."""
    from tasks.rl.evaluation import evaluation_metrics

    problems = [Problem(name, "math", "en", "?", "1", "exact") for name in ("a", "b")]
    rows = [
        sample("a", "correct", "1"), sample("a", "correct", "1", completion_tokens=30),
        sample("a", "correct", "1"), sample("a", "wrong", "2", completion="wait, but"),
        sample("b", "correct", "1", reward_format=0.0), sample("b", "wrong", "2", reward_language=0.0),
        sample("b", "wrong", "2"), sample("b", "unparseable", None, thinking=None, reward_language=0.0),
    ]  # fmt: skip
    found = evaluation_metrics(conform(rows, SAMPLES), problems, lambda pairs: [False] * len(pairs))
    assert found == pytest.approx({
        "pass_at_1": (3 / 4 + 1 / 4) / 2, "cons_at_4": 0.5, "length": 100 / 8, "format": 7 / 8,
        "language_consistency": (1 + 2 / 3) / 2, "reflective_words": 2 / 8,
    })  # fmt: skip


def test_settings_that_are_off_do_not_change_a_key():
    assert not [name for name in RLConfig().cache_document() if name.startswith("evaluate")]
    assert RLConfig(evaluate_every=2).cache_document()["evaluate_every"] == 2


@pytest.fixture(scope="module")
def inputs(checkpoint, tmp_path_factory):
    problems = write_problems(tmp_path_factory.mktemp("problems"), [*sums(), *talks(), *held_out()])
    return {"checkpoint": (Kind.checkpoint, checkpoint), "problems": (Kind.problems, problems)}


@pytest.fixture(scope="module")
def evaluated(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return finished(EVALUATED, local_job(folder, "evaluated", "rl-zero", inputs))


def answers(job) -> list[dict]:
    return read_table(job.draft / "evaluation_samples.parquet").to_pylist()


def curves(job) -> list[dict]:
    return read_table(job.draft / "evaluation_metrics.parquet").to_pylist()


@pytest.mark.slow
def test_training_is_the_same_with_and_without_evaluation(evaluated, inputs, tmp_path):
    plain = EVALUATED.model_copy(update={"evaluate_every": 0})
    job = finished(plain, local_job(tmp_path, "plain", "rl-zero", inputs))
    assert_same_run(evaluated, job)
    assert not list(job.draft.glob("evaluation_*"))


@pytest.mark.slow
def test_a_step_is_evaluated_with_its_own_weights_on_the_same_draws(evaluated):
    rows = answers(evaluated)
    assert Counter(row["step"] for row in rows) == dict.fromkeys(STEPS, 12)
    by_step = {step: [row for row in rows if row["step"] == step] for step in STEPS}
    asked = [
        [(r["problem_id"], r["sample_index"], r["seed"], r["prompt"]) for r in by_step[s]] for s in STEPS
    ]
    assert asked == [asked[0]] * len(STEPS)
    assert len({seed for _, _, seed, _ in asked[0]}) == 12
    assert [row["completion"] for row in by_step[0]] != [row["completion"] for row in by_step[5]]
    assert {(r["temperature"], r["top_p"], r["max_new_tokens"]) for r in rows} == {(0.6, 0.95, 24)}
    assert read_table(evaluated.draft / "evaluation_metrics.parquet").schema.equals(METRICS)
    for step in STEPS:
        found = {row["name"]: row["value"] for row in curves(evaluated) if row["step"] == step}
        correct = [row["verdict"] == "correct" for row in by_step[step]]
        assert found["pass_at_1"] == pytest.approx(sum(correct) / 12)
        assert set(found) >= {"cons_at_4", "length", "format", "reflective_words"}
    seconds = read_table(evaluated.draft / "metrics.parquet").to_pylist()
    assert {row["step"] for row in seconds if row["name"] == "evaluate_s"} == {0, 2, 4}


_STAGE = """
import sys
from pathlib import Path
from tasks.kinds import Kind
from tests.jobs import local_job
from tests.rl.test_evaluation import EVALUATED
from tests.rl.test_rl import finished
root, checkpoint, problems = map(Path, sys.argv[1:])
inputs = {"checkpoint": (Kind.checkpoint, checkpoint), "problems": (Kind.problems, problems)}
finished(EVALUATED, local_job(root, "killed", "rl-zero", inputs))
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", [2, 5])
def test_a_killed_run_evaluates_each_step_once(evaluated, inputs, tmp_path, killed_after):
    """At 2 a checkpoint was just written, from which the run resumes; 5 is after all updates."""
    command = [sys.executable, "-c", _STAGE, str(tmp_path), *(str(path) for _, path in inputs.values())]
    mark = tmp_path / "work" / "killed" / "state" / "evaluation_metrics" / f"{killed_after:06d}.parquet"
    killed_at(command, mark)
    job = finished(EVALUATED, local_job(tmp_path, "killed", "rl-zero", inputs))
    assert_same_run(job, evaluated)
    assert answers(job) == answers(evaluated)
    assert curves(job) == curves(evaluated)


@pytest.mark.slow
def test_a_longer_run_that_goes_on_from_it_has_no_point_at_the_old_end(evaluated, inputs):
    """The last step of five is none of the steps of six that are evaluated."""
    longer = EVALUATED.model_copy(update={"steps": 6})
    job = finished(longer, local_job(evaluated.folder.parents[1], "longer", "rl-zero", inputs))
    assert job.headline["continued_from_step"] == 5
    assert sorted({row["step"] for row in answers(job)}) == [0, 2, 4, 6]
    assert [row for row in curves(job) if row["step"] <= 4] == [
        r for r in curves(evaluated) if r["step"] <= 4
    ]


@pytest.mark.slow
def test_several_processes_share_the_questions(evaluated, inputs, tmp_path):
    config = EVALUATED.model_copy(update={"steps": 2, "launch": LaunchSettings(processes=2)})
    job = finished(config, local_job(tmp_path, "shared", "rl-zero", inputs))
    assert [row for row in answers(job) if row["step"] == 0] == [
        r for r in answers(evaluated) if r["step"] == 0
    ]
    assert Counter(row["step"] for row in answers(job)) == {0: 12, 2: 12}


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shares_of_processes_are_put_in_order(count, processes):
    from tasks.rl.evaluation import in_order

    drawn = [list(range(count))[process::processes] or [0] for process in range(processes)]
    rows = in_order([pa.table({"row": share}) for share in drawn], count)["row"].to_pylist()
    assert rows == list(range(count))


class BesideEngine(TransformersEngine):
    """With a copy of the policy, as an engine on another device has one; slower than any update."""

    def __init__(self, settings, model):
        super().__init__(settings, replace(model, policy=None))

    def generate(self, prompts, sampling, seeds, logprobs=False):
        if sampling.top_p < 1:
            time.sleep(0.5)
        yield from super().generate(prompts, sampling, seeds, logprobs)


@pytest.mark.slow
def test_an_engine_on_a_device_of_its_own_answers_while_the_update_is_made(
    evaluated, inputs, tmp_path, monkeypatch
):
    """The weights it gets for the next rollout wait for the answers, and so does every checkpoint."""
    from tasks.rl import trainer
    from tasks.rl.evaluation import PeriodicEvaluation

    order = []
    gradients, record = trainer.GroupTrainer._gradients, PeriodicEvaluation.record
    monkeypatch.setattr(
        trainer.GroupTrainer, "_gradients", lambda *a: order.append("update") or gradients(*a)
    )
    monkeypatch.setattr(PeriodicEvaluation, "record", lambda s, *a: order.append(a[0]) or record(s, *a))
    entry = EngineEntry(f"{__name__}:BesideEngine", own_device=True, free_logprobs=True)
    monkeypatch.setitem(ENGINES, "beside", entry)
    config = EVALUATED.model_copy(update={"engine": EngineSettings(name="beside")})
    job = finished(config, local_job(tmp_path, "beside", "rl-zero", inputs))
    assert order == ["update", 0, "update", "update", 2, "update", "update", 4, 5]
    assert_same_run(job, evaluated)
    assert curves(job) == curves(evaluated)
