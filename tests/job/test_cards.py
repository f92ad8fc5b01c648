"""A card belongs to one job at a time, until the job's process is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.job import StopRequested, cards
from tasks.job.cards import held, visible_cards
from tasks.job.spec import BuildSpec, JobSpec
from tasks.settings import REPOSITORY

HOLDER = """
import sys, threading, time
from pathlib import Path
from tasks.job.cards import held
from tests.job.test_cards import spec
with held(spec(Path(sys.argv[1])), threading.Event(), print) as variables:
    print(variables, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("R1_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def spec(folder, stage="rl-zero", processes=1, aside=False):
    config = {"launch": {"processes": processes}}
    build = BuildSpec(node="n", stage=stage, config=config, inputs={}, key="k", ref_name="p/n")
    return JobSpec(work_root=folder, preset="p", builds=(build,), aside=aside)


def now(asked, waiting=lambda message: None):
    """The variables, where a card is free at once."""
    stop = threading.Event()
    stop.set()
    return held(asked, stop, waiting)


def test_each_job_of_one_process_gets_a_card_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    said = []
    with now(spec(tmp_path)) as first, now(spec(tmp_path)) as second:
        assert (first, second) == ({"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "3"})
        with pytest.raises(StopRequested), now(spec(tmp_path), said.append):
            pytest.fail("there is no third card")
    assert said == ["waits for a free card (2, 3 in use by another job)"]
    with now(spec(tmp_path)) as again:
        assert again == {"CUDA_VISIBLE_DEVICES": "2"}


def test_a_job_of_several_processes_holds_all_cards(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with now(spec(tmp_path, processes=2)) as variables:
        assert variables == {}
        with pytest.raises(StopRequested), now(spec(tmp_path)):
            pytest.fail("both are in use")
    with now(spec(tmp_path)), pytest.raises(StopRequested), now(spec(tmp_path, processes=2)):
        pytest.fail("one of them is in use")


def test_a_job_without_a_gpu_pool_waits_for_no_card(tmp_path):
    with now(spec(tmp_path)), now(spec(tmp_path)), now(spec(tmp_path, stage="problems")) as variables:
        assert variables == {}


def test_a_machine_without_a_gpu_works_on_two_jobs_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with now(spec(tmp_path)) as first, now(spec(tmp_path)) as second:
        assert (first, second) == ({}, {})
        with pytest.raises(StopRequested), now(spec(tmp_path)):
            pytest.fail("two are at work")
        with pytest.raises(StopRequested), now(spec(tmp_path, processes=2)):
            pytest.fail("two are at work")
        aside = spec(tmp_path, aside=True)
        with now(aside), now(aside), pytest.raises(StopRequested), now(aside):
            pytest.fail("two that nothing waits for are at work")


def test_what_counts_as_a_card(tmp_path):
    assert visible_cards({}, tmp_path) == ["processors-0", "processors-1", "aside-0", "aside-1"]
    (tmp_path / "nvidia3").touch()
    (tmp_path / "nvidia7").touch()
    (tmp_path / "nvidiactl").touch()
    assert visible_cards({}, tmp_path) == ["0", "1"]  # CUDA numbers those that this container sees
    assert visible_cards({"CUDA_VISIBLE_DEVICES": "2, 3"}, tmp_path) == ["2", "3"]
    assert visible_cards({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == [
        "processors-0",
        "processors-1",
        "aside-0",
        "aside-1",
    ]


def test_a_killed_job_frees_its_card_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(argv, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert "CUDA_VISIBLE_DEVICES" in holder.stdout.readline()
        with pytest.raises(StopRequested), now(spec(tmp_path)):
            pytest.fail("the other process holds it")
        began = time.monotonic()
        holder.send_signal(signal.SIGKILL)
        with held(spec(tmp_path), threading.Event(), print) as variables:
            assert variables == {"CUDA_VISIBLE_DEVICES": "0"}
        assert time.monotonic() - began < 5
    finally:
        holder.kill()
        holder.wait()


def test_only_a_job_that_nothing_waits_for_steps_aside(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda *given: asked.append(given[1]))
    monkeypatch.setattr(cards, "Path", lambda _: Path(os.devnull))
    cards.step_aside(spec(tmp_path))
    assert asked == []
    cards.step_aside(spec(tmp_path, aside=True))
    assert asked == [os.SCHED_IDLE]
    monkeypatch.setattr(cards, "has_gpu", lambda _: True)
    cards.step_aside(spec(tmp_path, aside=True))
    assert asked == [os.SCHED_IDLE]
