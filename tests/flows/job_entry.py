"""`python -m tests.flows.job_entry SPEC.json`: a real job whose stage counts instead of training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

from artifacts.files import write_atomic
from tasks.job import Job, ServiceLost, StopRequested
from tasks.job.__main__ import main
from tasks.recipe import STAGES
from tasks.settings import Settings


class CountConfig(Settings):
    steps: int = 20
    seconds_per_step: float = 0.05
    die_at: int = -1
    """SIGKILL oneself at this step, in every process."""
    die_after: int = -1
    """SIGKILL oneself after so many steps, in every process."""
    lose_at: int = -1
    """Lose a service at this step, once."""
    fail_at: int = -1
    helper: bool = False
    """Start a process in a session of its own that sleeps for ever."""
    deaf: bool = False
    """Do not heed a request to stop."""


def run(config: CountConfig, job: Job) -> None:
    """Counts to `steps`, a checkpoint a step; the artifact says where each process began."""
    checkpoint, starts = job.state / "step", job.state / "starts"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    with starts.open("a") as file:
        file.write(f"{first}\n")
    if config.helper:
        helper = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        (job.state / "helper").write_text(str(helper.pid))
    for step in range(first, config.steps):
        if step == config.lose_at and first == 0:
            raise ServiceLost("the vLLM server vanished")
        if step == config.die_at or step - first == config.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == config.fail_at:
            raise ValueError(f"step {step}:\nthe loss is not a number")
        time.sleep(config.seconds_per_step)
        write_atomic(checkpoint, str(step + 1).encode())
        job.progress(step + 1, config.steps)
        if job.should_stop() and not config.deaf:
            raise StopRequested
    starts.rename(job.draft / "starts")


STAGES["count"] = replace(
    STAGES["problems"], name="count", config=CountConfig, entry="tests.flows.job_entry:run"
)

if __name__ == "__main__":
    main()
