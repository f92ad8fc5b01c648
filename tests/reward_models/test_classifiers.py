"""Reward models are the same from one process as from two that share rows or weights (gloo, CPU)."""

import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from artifacts.tables import read_table
from tasks.job import StopRequested
from tasks.kinds import Kind
from tasks.reward_models import classifiers
from tasks.reward_models.stage import RewardModelsConfig
from tasks.reward_models.train import run
from tasks.rewards.preference_models import PreferenceModel, score_range
from tasks.rollout.settings import Sampling
from tasks.training.checkpoints import newest_checkpoint
from tasks.training.models import load_policy
from tasks.training.settings import LaunchSettings
from tests.jobs import local_job

pytestmark = pytest.mark.slow

CONFIG = RewardModelsConfig(
    template="plain", samples_per_prompt=12, sampling=Sampling(max_new_tokens=24), batch_size=16,
    micro_batch_size=6, learning_rate=3e-4, epochs=2, max_length=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def inputs(checkpoint, problems):
    return {"checkpoint": (Kind.checkpoint, checkpoint), "problems": (Kind.problems, problems)}


def fitted(config, job):
    run(config, job)
    return job


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    return fitted(CONFIG, local_job(tmp_path_factory.mktemp("one"), "one", "reward-models", inputs))


def losses(job):
    table = read_table(job.draft / "metrics.parquet").to_pylist()
    return {(row["name"], row["step"]): row["value"] for row in table if row["name"].endswith("_loss")}


@pytest.mark.parametrize(
    "settings",
    [
        {"launch": LaunchSettings(processes=2)},
        {"launch": LaunchSettings(processes=2, strategy="fsdp2"), "recompute": True},
    ],
    ids=["ddp", "fsdp2-recompute"],
)
def test_two_processes_learn_what_one_does(settings, alone, inputs, tmp_path):
    config = CONFIG.model_copy(update=settings)
    pair = fitted(config, local_job(tmp_path, "two", "reward-models", inputs))
    assert losses(pair).keys() == losses(alone).keys()
    assert losses(pair) == pytest.approx(losses(alone), rel=1e-4)
    for name in ("helpful", "safety"):
        ours, theirs = (load_file(job.draft / name / "model.safetensors") for job in (pair, alone))
        assert ours.keys() == theirs.keys()
        for weight in theirs:
            torch.testing.assert_close(ours[weight], theirs[weight], atol=1e-4, rtol=1e-3, msg=weight)
    ranges = [score_range(PreferenceModel.load(job.draft / "helpful").model) for job in (pair, alone)]
    assert ranges[0] == pytest.approx(ranges[1], rel=1e-3, abs=1e-4)
    assert ranges[0][1] != 1.0  # what a model has that was never measured


@pytest.mark.parametrize(
    ("micro", "processes", "rows", "passes"), [(6, 1, 4, 4), (16, 1, 16, 1), (64, 2, 8, 1), (5, 2, 4, 2)]
)
def test_an_update_has_all_rows_of_its_batch(micro, processes, rows, passes, tiny_model, tmp_path):
    """16 of them: a micro-batch has as many as fit and divide a process's share."""
    launch = LaunchSettings(processes=processes)
    config = CONFIG.model_copy(update={"micro_batch_size": micro, "launch": launch})
    found = classifiers._arguments(config, tmp_path, 64, load_policy(tiny_model))
    assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == (rows, passes)
    assert rows * passes * processes == CONFIG.batch_size


def test_a_stopped_pair_of_processes_goes_on(alone, inputs, tmp_path):
    config = CONFIG.model_copy(update={"launch": LaunchSettings(processes=2, strategy="fsdp2")})
    job = local_job(tmp_path, "two", "reward-models", inputs)

    def stop_once_they_train():
        while not list((job.folder / "processes").glob("began-*")):
            time.sleep(0.05)
        job.stop.set()

    threading.Thread(target=stop_once_they_train, daemon=True).start()
    with pytest.raises(StopRequested):
        run(config, job)
    assert any(newest_checkpoint(job.state / name) for name in ("helpful", "safety"))
    job.stop.clear()
    assert losses(fitted(config, job)).keys() == losses(alone).keys()
