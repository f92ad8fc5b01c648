"""Training in two processes as a supervised tree: asked to stop, failing, and left without its job."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tasks.job import StopRequested
from tasks.supervise.trees import is_alive
from tasks.training.launching import train_in_processes
from tasks.training.settings import LaunchSettings
from tests.jobs import local_job
from tests.training.launched import WaitConfig

pytestmark = pytest.mark.slow

ENTRY = "tests.training.launched:train"
PAIR = LaunchSettings(processes=2)
JOB = """
import sys
from pathlib import Path
from tasks.training.launching import train_in_processes
from tests.jobs import local_job
from tests.training.launched import WaitConfig
from tests.training.test_launching import ENTRY, PAIR
train_in_processes(ENTRY, WaitConfig(), PAIR, local_job(Path(sys.argv[1]), "pair", "rl-zero", {}))
"""


def wait_until(condition) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def began(tmp_path) -> bool:
    return len(list((tmp_path / "work" / "pair" / "state").glob("began-*"))) == 2


def below() -> set[psutil.Process]:
    """Every process below this one; the verifier pools of other tests live to the end of the session."""
    return set(psutil.Process().children(recursive=True))


def test_a_stop_reaches_both_and_nothing_is_left(tmp_path):
    before = below()
    job = local_job(tmp_path, "pair", "rl-zero", {})

    def stop() -> None:
        wait_until(lambda: began(tmp_path))
        job.stop.set()

    threading.Thread(target=stop).start()
    with pytest.raises(StopRequested):
        train_in_processes(ENTRY, WaitConfig(), PAIR, job)
    assert below() <= before


def test_the_reason_of_one_is_the_reason_of_all_and_nothing_is_left(tmp_path):
    before = below()
    job = local_job(tmp_path, "pair", "rl-zero", {})
    with pytest.raises(RuntimeError, match=r"^the second process has no data$"):
        train_in_processes(ENTRY, WaitConfig(fail=True), PAIR, job)
    assert below() <= before


def test_they_stop_by_themselves_when_the_job_is_killed(tmp_path):
    """torchrun does not notice the death of its parent; the training processes do."""
    job = subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path)], start_new_session=True)
    wait_until(lambda: began(tmp_path))
    launched = psutil.Process(job.pid).children(recursive=True)
    assert len(launched) == 3
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    wait_until(lambda: not any(map(is_alive, launched)))
