"""A small checkpoint that has learned the layout, trained once for all tests that need one."""

from pathlib import Path

import pytest

from tasks.kinds import Kind
from tasks.sft.stage import SFTConfig
from tests.jobs import local_job
from tests.worlds import sums, talks, write_problems, write_sft

SFT = SFTConfig(epochs=4, batch_size=32, micro_batch_tokens=512, learning_rate=3e-3, max_length=64)


@pytest.fixture(scope="session")
def untrained(tiny_model, tmp_path_factory) -> Path:
    """A checkpoint artifact's folder with the random `tiny_model`."""
    folder = tmp_path_factory.mktemp("untrained")
    (folder / "model").symlink_to(tiny_model)
    return folder


@pytest.fixture(scope="session")
def problems(tmp_path_factory) -> Path:
    """A problems artifact's folder: sums and small talk."""
    return write_problems(tmp_path_factory.mktemp("problems"), sums() + talks())


@pytest.fixture(scope="session")
def fine_tuned(untrained, tmp_path_factory):
    """The job of an SFT stage that ran to its end; its draft is a checkpoint that answers in the layout."""
    from tasks.sft import train as sft

    folder = tmp_path_factory.mktemp("sft")
    dataset = write_sft(folder / "dataset", rows=600)
    job = local_job(
        folder,
        "dev1",
        "sft",
        {"checkpoint": (Kind.checkpoint, untrained), "dataset": (Kind.dataset, dataset)},
    )
    sft.run(SFT, job)
    return job


@pytest.fixture(scope="session")
def checkpoint(fine_tuned) -> Path:
    """A checkpoint artifact's folder with the fine-tuned model."""
    return fine_tuned.draft
