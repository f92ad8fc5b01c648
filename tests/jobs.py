"""Jobs for tests of stages: no store, no flow, inputs are plain folders."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from artifacts.refs import Ref
from tasks.job import Input, Job
from tasks.kinds import Kind


def local_job(tmp_path: Path, node: str, stage: str, inputs: dict[str, tuple[Kind, Path]]) -> Job:
    """A job whose work folder is `tmp_path/work/<node>`; called again it resumes from the same state.

    `inputs` maps an input's name to its kind and a folder laid out like the artifact
    (e.g. `problems.parquet` in it). The digests are made up from the folder names.
    """
    folder = tmp_path / "work" / node
    job = Job(node=node, stage=stage, inputs={k: _input(*v) for k, v in inputs.items()}, folder=folder)
    for place in (job.state, job.draft):
        place.mkdir(parents=True, exist_ok=True)
    return job


def killed_at(command: Sequence[str], mark: Path) -> None:
    """Run a command in a process group of its own and SIGKILL it once the file `mark` is there."""
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 300
    while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert mark.exists()


def _input(kind: Kind, path: Path) -> Input:
    return Input(Ref(kind=kind, digest=hashlib.sha256(str(path).encode()).hexdigest()), path)
