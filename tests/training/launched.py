"""A training that `test_launching.py` runs in two processes: it waits for a request to stop."""

from __future__ import annotations

import time

from tasks.job import Job, StopRequested
from tasks.settings import Settings
from tasks.training.launching import process_number


class WaitConfig(Settings):
    fail: bool = False


def train(config: WaitConfig, job: Job) -> None:
    (job.state / f"began-{process_number()}").touch()
    if config.fail and process_number() == 1:
        raise ValueError("the second process\nhas no data")
    while not job.should_stop():
        time.sleep(0.05)
    raise StopRequested
