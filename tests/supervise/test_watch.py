"""The supervised side, in processes of its own: signals are heard only in a main thread."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tasks.supervise.records import Heartbeat

pytestmark = pytest.mark.slow

PROGRAM = """
import os, sys, time
from pathlib import Path
from tasks.supervise.records import Heartbeat
from tasks.supervise.watch import Watch
folder, grace, stuck = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "stuck"
asked = lambda: "a file asks" if (folder / "stop").exists() else ""
with Watch(int(sys.argv[4]), asked, grace) as watch, watch.calling(Heartbeat(folder / "heartbeat").beat):
    print("ready", flush=True)
    while stuck or not watch.stop.is_set():
        time.sleep(0.05)
    print(watch.reason)
"""


def started(tmp_path, grace: float = 30.0, how: str = "heeds", parent: int | None = None):
    arguments = [str(tmp_path), str(grace), how, str(parent or os.getpid())]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    if parent is None:
        assert process.stdout.readline() == "ready\n"
    return process


def test_a_signal_asks_to_stop(tmp_path):
    process = started(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == "asked to stop (SIGTERM)\n"


def test_a_condition_asks_to_stop(tmp_path):
    process = started(tmp_path)
    (tmp_path / "stop").touch()
    assert process.communicate(timeout=10)[0] == "a file asks\n"


def test_another_parent_than_the_one_that_started_it_asks_to_stop(tmp_path):
    process = started(tmp_path, parent=1)
    assert "the process that started this job is gone" in process.communicate(timeout=10)[0]


def test_what_does_not_stop_within_the_grace_is_killed_with_its_group(tmp_path):
    process = started(tmp_path, grace=0.5, how="stuck")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGKILL
    process.stdout.close()


def test_it_beats_while_it_works(tmp_path):
    process, heartbeat = started(tmp_path), Heartbeat(tmp_path / "heartbeat")
    for _ in range(6):
        time.sleep(0.5)
        assert heartbeat.silence() < 2.5
    process.kill()
    process.communicate()
    heartbeat.silence()
    time.sleep(1.5)
    assert heartbeat.silence() >= 1.5
