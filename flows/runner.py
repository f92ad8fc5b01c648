"""Runs one job process, as its supervisor: the job's own records decide, not anyone's memory of it.

A job that dies (a signal, no exit record, a silent heartbeat, a lost service) is started again and resumes
from its last checkpoint; it is given up where it dies twice without having got any further. Whatever ends
the supervisor, short of SIGKILL, ends the job's whole process group; after a SIGKILL the job notices by
itself that its parent is gone.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flows import paths
from tasks.job import LOST, Progress
from tasks.job.spec import JobExit, JobSpec
from tasks.supervise import trees
from tasks.supervise.records import Heartbeat, write_json

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
STOP_SECONDS = 20.0
"""From asking a job to stop to killing it; shorter than the 30 s that Prefect gives a cancelled flow."""
SILENCE_SECONDS = 300.0
"""Without a heartbeat for this long a job counts as dead."""

OnProgress = Callable[[Progress], None]
Start = Callable[[Sequence[str], Mapping[str, str], Path], "subprocess.Popen[bytes]"]
"""Starts (command, environment, log) in a session of its own."""

JOB_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # OpenMP threads spin briefly, then sleep: unlimited, one busy process beside them costs a factor of ten.
    "GOMP_SPINCOUNT": "3000",
}

_PREFECTS_SECRETS = {"PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_KEY"}


class JobFailed(RuntimeError):
    """The job ended with a reason, or died twice at one place; one line, with the place of its log."""


@dataclass(frozen=True)
class StartedJob:
    process: subprocess.Popen[bytes]
    folder: Path
    """spec.json, log.txt, heartbeat, exit.json."""

    @property
    def exit(self) -> JobExit | None:
        return JobExit.read(self.folder / "exit.json")


def run_job(
    spec: JobSpec,
    on_progress: OnProgress,
    attempts: int = 2,
    module: str = "tasks.job",
    start: Start = trees.start_session,
) -> JobExit:
    """Run the builds of `spec` in a process of their own, which `start` starts, and wait for them.

    Raises:
        JobFailed: the job failed, was stopped, or died `attempts` times at one place.
    """
    deaths, furthest = 0, _newest_progress(spec)
    while deaths < attempts:
        with started(spec, module, start) as job:
            death = _wait(job, spec, on_progress)
        record = job.exit
        if record is not None and not death:
            return _successful(record, job)
        reached = _newest_progress(spec)
        if _is_further(reached, furthest):
            deaths, furthest = 0, reached
        deaths += 1
        log.warning("the job for %s %s (%d of %d times here)", _what(spec), death, deaths, attempts)
    raise JobFailed(f"{_what(spec)}: the job {death}, {attempts} times; its log is {job.folder / 'log.txt'}")


def _is_further(now: Progress | None, before: Progress | None) -> bool:
    """Whether a job that died at `now` had got further than at `before`."""
    if now is None or before is None or now.node != before.node:
        return now is not None
    return now.done > before.done


def _successful(record: JobExit, job: StartedJob) -> JobExit:
    if record.status == "ok":
        return record
    verb = "" if record.status == "failed" else "stopped: "
    raise JobFailed(f"{record.node}: {verb}{record.reason} (log: {job.folder / 'log.txt'})")


def _what(spec: JobSpec) -> str:
    first = spec.builds[0].node
    return first if len(spec.builds) == 1 else f"{first} and {len(spec.builds) - 1} more"


@contextmanager
def started(
    spec: JobSpec, module: str = "tasks.job", start: Start = trees.start_session
) -> Iterator[StartedJob]:
    """A running job; nothing of it is left when the block is left."""
    folder = _job_folder(spec)
    write_json(folder / "spec.json", spec.model_dump(mode="json"))
    command = [sys.executable, "-m", module, str(folder / "spec.json"), "--parent", str(os.getpid())]
    process = start(command, job_environment(), folder / "log.txt")
    try:
        yield StartedJob(process, folder)
    finally:
        trees.stop(process, STOP_SECONDS)


def _job_folder(spec: JobSpec) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    folder = spec.work_root / "jobs" / f"{stamp}-{spec.preset}-{spec.builds[0].node}"
    folder.mkdir(parents=True)
    return folder


def job_environment() -> dict[str, str]:
    """A job never asks Prefect anything, so it is not given what opens the server.

    The store's address stands here and not in the spec, a file, because it may hold credentials. `R1_HOME` is
    absolute, so that the job finds the keys that are trusted (`artifacts.trust`) wherever it is started.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _PREFECTS_SECRETS}
    here, path = str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")
    if path.partition(os.pathsep)[0] != here:
        path = os.pathsep.join(filter(None, (here, path)))
    return {
        **JOB_ENVIRONMENT,
        **inherited,
        "PYTHONPATH": path,
        "R1_HOME": str(paths.home()),
        "R1_STORE": paths.absolute_store_url(),
    }


def _wait(job: StartedJob, spec: JobSpec, on_progress: OnProgress) -> str:
    """Until the job ends; how it died, or nothing where it ended by itself."""
    last: Progress | None = None
    heartbeat = Heartbeat(job.folder / "heartbeat")
    while not trees.has_ended(job.process):
        newest = _newest_progress(spec)
        if newest is not None and newest != last:
            on_progress(newest)
            last = newest
        if heartbeat.silence() > SILENCE_SECONDS:
            return f"gave no sign of life for {SILENCE_SECONDS:.0f} s"
        time.sleep(POLL_SECONDS)
    return _death(job)


def _death(job: StartedJob) -> str:
    """How the job died; empty where it ended with an exit record."""
    code = trees.exit_code(job.process)
    if code == LOST:
        return "lost a service that it depends on (the end of its log says which)"
    if code < 0:
        return trees.death(code)
    return "" if job.exit is not None else f"{trees.death(code)} and no exit record"


def _newest_progress(spec: JobSpec) -> Progress | None:
    records = (Progress.read(spec.work_root / build.key) for build in spec.builds)
    return max((record for record in records if record), key=lambda record: record.at, default=None)
