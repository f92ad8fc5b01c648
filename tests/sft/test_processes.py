"""SFT in two processes (gloo, CPU), with sharded weights and with adapters."""

import pytest
import torch

from tasks.job import StopRequested
from tasks.kinds import Kind
from tasks.sft.tokens import token_rows
from tasks.sft.train import run
from tasks.tokenizer import load_tokenizer
from tasks.training.checkpoints import checkpoint_step, newest_checkpoint
from tasks.training.models import load_policy
from tasks.training.settings import LaunchSettings, LoraSettings
from tests.jobs import local_job
from tests.sft.test_sft import metric
from tests.trained import SFT
from tests.worlds import write_sft

pytestmark = pytest.mark.slow

SHORT = SFT.model_copy(update={"epochs": 1, "micro_batch_tokens": 128})
FSDP = LaunchSettings(processes=2, strategy="fsdp2")
LORA = {"lora": LoraSettings(rank=4, alpha=8)}


@pytest.fixture
def inputs(fine_tuned, tmp_path):
    """A model that ends its completions already, so that a few steps need not teach it."""
    return {
        "checkpoint": (Kind.checkpoint, fine_tuned.draft),
        "dataset": (Kind.dataset, write_sft(tmp_path / "dataset", 64, seed=1)),
    }


def trained(config, job):
    run(config, job)
    return load_policy(job.draft / "model").state_dict()


@pytest.mark.parametrize(
    "settings",
    [
        {"launch": LaunchSettings(processes=2)},
        {"launch": FSDP},
        {"launch": FSDP, "recompute": True} | LORA,
        {"launch": FSDP, "recompute": True, "compile_layers": True},
    ],
    ids=["ddp", "fsdp2", "fsdp2-recompute-lora", "fsdp2-recompute-compiled"],
)
def test_two_processes_learn_what_one_does(settings, inputs, tmp_path):
    # Compiled code rounds in its own way, and Adam makes much of it where a gradient is nearly 0.
    alone = {name: value for name, value in settings.items() if name in ("lora", "compile_layers")}
    one = local_job(tmp_path, "one", "sft", inputs)
    two = local_job(tmp_path, "two", "sft", inputs)
    theirs = trained(SHORT.model_copy(update=alone), one)
    ours = trained(SHORT.model_copy(update=settings), two)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4, msg=name)
    for name in ("loss", "token_accuracy", "grad_norm"):
        assert metric(two, name) == pytest.approx(metric(one, name), rel=1e-4)
    assert two.headline == pytest.approx(one.headline, rel=1e-3)
    before = load_policy(inputs["checkpoint"][1] / "model").state_dict()
    assert any(not torch.equal(before[name], theirs[name]) for name in theirs)


def test_a_stopped_job_with_sharded_weights_goes_on(inputs, tmp_path):
    config = SHORT.model_copy(update={"epochs": 2, "launch": FSDP})
    whole = trained(config, local_job(tmp_path, "whole", "sft", inputs))
    job = local_job(tmp_path, "stopped", "sft", inputs)
    token_rows(job, load_tokenizer(inputs["checkpoint"][1] / "model"))
    job.stop.set()
    with pytest.raises(StopRequested, match="stopped at step 1 of 4"):
        run(config, job)
    checkpoint = newest_checkpoint(job.state / "trainer")
    assert checkpoint_step(checkpoint) == 1
    for part in ("pytorch_model_fsdp_0", "optimizer_0"):  # shared out: each process wrote its own
        assert len(list((checkpoint / part).glob("*.distcp"))) == 2
    assert not list(checkpoint.glob("*.safetensors"))
    job.stop.clear()
    with pytest.raises(ValueError, match=r"checkpoint-1 was written with fsdp2 and launch.strategy is ddp"):
        run(config.model_copy(update={"launch": LaunchSettings()}), job)
    resumed = trained(config, job)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
