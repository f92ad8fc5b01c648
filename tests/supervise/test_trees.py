"""Real processes with children: started, asked, killed, seen to end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.supervise import trees

SLEEP = "import time; time.sleep(60)"
TREE = f"""
import subprocess, sys, time
own = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
group = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
print(own.pid, group.pid, flush=True)
time.sleep(60)
"""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True);" + SLEEP


def start(tmp_path: Path, code: str) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """The process in a session of its own, and the processes whose numbers it wrote."""
    log = tmp_path / "log.txt"
    process = trees.start_session([sys.executable, "-c", code], os.environ, log)
    deadline = time.monotonic() + 20
    while not log.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, [psutil.Process(int(pid)) for pid in log.read_text().split() if pid != "1"]


def test_stopping_a_process_leaves_none_below_it(tmp_path):
    process, below = start(tmp_path, TREE)
    assert os.getsid(process.pid) == process.pid
    began = time.monotonic()
    trees.stop(process, seconds=10)
    assert time.monotonic() - began < 8
    assert process.returncode == -15
    assert len(below) == 2
    assert not any(map(trees.is_alive, below))
    trees.stop(process, seconds=10)


def test_a_process_that_ignores_the_request_is_killed(tmp_path):
    process, _ = start(tmp_path, DEAF)
    began = time.monotonic()
    trees.stop(process, seconds=0.5)
    assert 0.5 <= time.monotonic() - began < 5
    assert process.returncode == -9


def test_members_of_its_group_that_lost_their_parent_are_ended_too(tmp_path):
    orphan = (
        f"import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True)"
    )
    leader = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {orphan!r}])\n{SLEEP}"
    process, (left,) = start(tmp_path, leader)
    while left.ppid() != 1 and psutil.Process(left.ppid()).ppid() == process.pid:
        time.sleep(0.02)
    assert left not in psutil.Process(process.pid).children(recursive=True)
    trees.stop(process, seconds=5)
    assert not trees.is_alive(left)


def test_a_child_with_pipes_is_stopped_without_its_group():
    """What the verifier pool does: the child is in this process's group, which goes on."""
    echo = "import sys; sys.stdout.write(sys.stdin.readline()); sys.stdout.flush(); sys.stdin.read()"
    process = trees.start_child([sys.executable, "-c", echo], os.environ, pipes=True)
    process.stdin.write(b"hello\n")
    assert process.stdout.read(6) == b"hello\n"
    assert os.getpgid(process.pid) == os.getpgrp()
    trees.stop(process, seconds=0)
    assert process.returncode in (-9, -15)
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [
        ("raise SystemExit(3)", 3, "ended with code 3"),
        ("import os; os.kill(os.getpid(), 9)", -9, "was killed by SIGKILL"),
    ],
)
def test_how_a_process_ended_is_known_before_it_is_reaped(code, expected, words):
    process = trees.start_child([sys.executable, "-c", code], os.environ)
    assert trees.exit_code(process) == trees.exit_code(process) == expected
    assert trees.has_ended(process)
    assert trees.death(expected) == words
    assert not trees.is_alive(psutil.Process(process.pid))  # a zombie
    assert process.wait() == expected


def test_processes_of_others_are_asked_and_their_families_counted(tmp_path):
    process, below = start(tmp_path, TREE)
    assert trees.end([psutil.Process(process.pid)], seconds=10) == 3
    assert not any(map(trees.is_alive, below))
    process.wait(5)
