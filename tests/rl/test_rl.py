"""The RL stage: kills, stops, reward terms by step, learning."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch

from artifacts.tables import read_table
from tasks.job import StopRequested
from tasks.kinds import Kind
from tasks.reward_models.stage import RewardModelsConfig
from tasks.rewards.terms.helpful import Helpful
from tasks.rewards.terms.safety import Safety
from tasks.rl.stage import RLConfig
from tasks.rollout.engine import EngineUnavailable
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.training.models import load_policy
from tests.jobs import killed_at, local_job

pytestmark = pytest.mark.slow

CONFIG = RLConfig(
    template="plain", domains=("math",), steps=14, group_size=4, questions_per_step=4,
    mini_batches_per_rollout=1, micro_batch_tokens=256, learning_rate=1e-3, kl_coef=0.01,
    reference_sync_steps=3, max_completion_length=24, checkpoint_every=2,
)  # fmt: skip

_STAGE = """
import sys
from pathlib import Path
from tasks.kinds import Kind
from tasks.rl.stage import RLConfig
from tasks.rl.train import run
from tests.jobs import local_job
root, checkpoint, problems, config = sys.argv[1:]
inputs = {"checkpoint": (Kind.checkpoint, Path(checkpoint)), "problems": (Kind.problems, Path(problems))}
run(RLConfig.model_validate_json(config), local_job(Path(root), "killed", "rl-zero", inputs))
"""


@pytest.fixture(scope="module")
def inputs(checkpoint, problems):
    return {"checkpoint": (Kind.checkpoint, checkpoint), "problems": (Kind.problems, problems)}


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """A run that nothing disturbed."""
    return finished(CONFIG, local_job(tmp_path_factory.mktemp("whole"), "whole", "rl-zero", inputs))


def finished(config, job):
    from tasks.rl.train import run

    run(config, job)
    return job


def samples(job) -> list[dict]:
    return read_table(job.draft / "samples.parquet").to_pylist()


def metric(job, name) -> dict[int, float]:
    rows = read_table(job.draft / "metrics.parquet").to_pylist()
    return {row["step"]: row["value"] for row in rows if row["name"] == name}


def assert_same_run(job, other) -> None:
    """Same prompts, completions, rewards, losses and weights, no step twice."""
    assert samples(job) == samples(other)
    for name in ("loss", "kl", "entropy", "reward"):
        assert metric(job, name) == metric(other, name)
    ours, theirs = (load_policy(j.draft / "model").state_dict() for j in (job, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("killed_at", [1, 5])
def test_a_killed_run_resumes_to_the_same_result(whole, inputs, tmp_path, killed_at):
    """Step 1 is before the first checkpoint; step 5 is after the reference moved (3) and a checkpoint (4),
    from which ten steps remain."""
    kill_when(inputs, tmp_path, shard=killed_at)
    job = local_job(tmp_path, "killed", "rl-zero", inputs)
    found = sorted(p.name for p in (job.state / "trainer").glob("checkpoint-*/complete.json"))
    assert len(found) == (0 if killed_at == 1 else 2)
    assert_same_run(finished(CONFIG, job), whole)


def kill_when(inputs, folder: Path, shard: int) -> None:
    """Run the stage in a process of its own and SIGKILL it once the rollout of step `shard` is recorded."""
    command = [sys.executable, "-c", _STAGE, str(folder), *(str(path) for _, path in inputs.values())]
    mark = folder / "work" / "killed" / "state" / "samples" / f"{shard:06d}.parquet"
    killed_at([*command, CONFIG.model_dump_json()], mark)


def test_a_stopped_run_leaves_a_checkpoint_and_goes_on(whole, inputs, tmp_path):
    job = local_job(tmp_path, "stopped", "rl-zero", inputs)
    job.stop.set()
    with pytest.raises(StopRequested, match=f"stopped at step 1 of {CONFIG.steps}"):
        finished(CONFIG, job)
    assert (job.state / "trainer" / "checkpoint-1" / "complete.json").exists()
    job.stop.clear()
    assert_same_run(finished(CONFIG, job), whole)


def test_a_finished_run_that_was_not_published_is_not_trained_again(whole, inputs):
    def shards():
        return {p.name: p.stat().st_mtime_ns for p in (whole.state / "samples").iterdir()}

    before, drawn = samples(whole), shards()
    finished(CONFIG, whole)
    assert samples(whole) == before
    assert shards() == drawn
    assert metric(whole, "loss").keys() == set(range(CONFIG.steps))


def test_every_completion_is_recorded(whole, problems):
    rows = samples(whole)
    assert Counter(row["step"] for row in rows) == dict.fromkeys(range(CONFIG.steps), 16)
    assert all(row["sample_index"] == i % 4 for i, row in enumerate(rows))
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    for row in rows:
        assert row["reward"] == row["reward_accuracy"] + row["reward_format"]
        assert (row["verdict"] == "correct") == (row["reward_accuracy"] == 1)
        assert row["reward_language"] is None
    by_step = {step: [r["reward"] for r in rows if r["step"] == step] for step in range(CONFIG.steps)}
    for step, value in metric(whole, "reward").items():
        assert value == pytest.approx(sum(by_step[step]) / 16, abs=1e-5)


def test_sixteen_mini_batches_of_one_rollout(inputs, tmp_path):
    """A rollout every 4 updates; a stop inside a rollout resumes from the rollout's start."""
    config = CONFIG.model_copy(update={"steps": 8, "mini_batches_per_rollout": 4})
    job = finished(config, local_job(tmp_path, "mini", "rl-zero", inputs))
    assert Counter(row["step"] for row in samples(job)) == {0: 64, 4: 64}
    assert metric(job, "loss").keys() == set(range(8))
    assert metric(job, "generate_s").keys() == {0, 4}
    assert metric(job, "kl")[1] > 0

    # In a folder of its own: a run of the same settings would go on from the first one, which has finished.
    stopped = local_job(tmp_path / "other", "stopped", "rl-zero", inputs)
    stopped.stop.set()
    with pytest.raises(StopRequested):
        finished(config, stopped)
    assert not list((stopped.state / "trainer").glob("checkpoint-*"))
    stopped.stop.clear()
    assert_same_run(finished(config, stopped), job)


def test_rewards_rise(inputs, tmp_path):
    config = CONFIG.model_copy(update={"steps": 40, "questions_per_step": 8, "reference_sync_steps": 400})
    reward = metric(finished(config, local_job(tmp_path, "long", "rl-zero", inputs)), "reward")
    first, last = (sum(reward[s] for s in steps) / 8 for steps in (range(8), range(32, 40)))
    assert last > first + 0.15


def test_preference_rewards_and_general_prompts_enter_last(inputs, tmp_path):
    from tasks.reward_models import train as reward_models

    models = RewardModelsConfig(
        template="plain", samples_per_prompt=12, sampling=Sampling(max_new_tokens=24), batch_size=16,
        micro_batch_size=16, learning_rate=3e-4, epochs=8, max_length=64,
    )  # fmt: skip
    judged = local_job(tmp_path, "reward-models", "reward-models", inputs)
    reward_models.run(models, judged)
    assert judged.headline["helpful_held_out_accuracy"] > 0.7
    assert judged.headline["safety_held_out_accuracy"] > 0.6

    terms = (
        *CONFIG.rewards,
        Helpful(last_steps=3),
        Safety(last_steps=3),
    )
    config = CONFIG.model_copy(update={"steps": 6, "rewards": terms, "general_last_steps": 3})
    final_inputs = inputs | {"reward_models": (Kind.reward_models, judged.draft)}
    job = finished(config, local_job(tmp_path, "r1", "final-rl", final_inputs))
    table = read_table(job.draft / "samples.parquet")
    for step in range(6):
        rows = table.filter(pc.equal(table["step"], step)).to_pylist()
        general = [row for row in rows if row["verdict"] is None]
        assert len(general) == (8 if step >= 3 else 0)
        for row in general:
            scores = [row[f"reward_{name}"] for name in ("helpful", "safety")]
            assert sum(score is not None for score in scores) == 1
            assert all(0 <= score <= 1 for score in scores if score is not None)


def test_a_missing_reward_model_is_said_before_training(inputs, tmp_path):
    config = CONFIG.model_copy(update={"rewards": (Helpful(),)})
    with pytest.raises(ValueError, match="reward term helpful needs reward models"):
        finished(config, local_job(tmp_path, "r1", "rl-zero", inputs))


def test_a_length_the_model_has_no_room_for_is_refused(inputs, tmp_path):
    with pytest.raises(ValueError, match="lower max_completion_length to 5"):
        finished(
            CONFIG.model_copy(update={"max_completion_length": 512}),
            local_job(tmp_path, "x", "rl-zero", inputs),
        )


def test_bf16_trains_and_keeps_float32_weights(inputs, tmp_path):
    job = finished(
        CONFIG.model_copy(update={"steps": 2, "bf16": True}), local_job(tmp_path, "x", "rl-zero", inputs)
    )
    assert {p.dtype for p in load_policy(job.draft / "model").parameters()} == {torch.float32}
    assert metric(job, "loss").keys() == {0, 1}


def test_vllm_that_is_not_installed_is_said_at_once(inputs, tmp_path):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    config = CONFIG.model_copy(update={"engine": EngineSettings(name="vllm")})
    with pytest.raises(EngineUnavailable, match="needs vLLM, which cannot be imported"):
        finished(config, local_job(tmp_path, "x", "rl-zero", inputs))
