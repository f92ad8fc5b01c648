"""How flow runs and jobs start: as forks of a process that has everything imported, else as new processes;
on a machine with a GPU its jobs are done by processes that have imported everything and wait.

`started_beside` runs `tasks.starter` beside a worker; the worker and the flow runs below it find it by the
variable `R1_STARTER`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from flows import paths
from flows.runner import job_environment
from tasks.job.cards import has_gpu
from tasks.supervise import stand_in, trees

STARTER = "R1_STARTER"
"""Variable with the path of the starter's socket."""
_IMPORTED = ("prefect.engine", "prefect.flow_engine", "flows.stage_flows", "flows.r1_full_pipeline")
"""What a flow run imports beside its stage's job."""


@contextmanager
def started_beside() -> Iterator[None]:
    """A starter for this process's flow runs and jobs; where there is a GPU, for the jobs that use it."""
    # A socket's path has at most 107 characters: it does not lie in R1_HOME. The starter removes the folder.
    path = str(Path(tempfile.mkdtemp(prefix="r1-")) / "starter")
    paths.log("starter").parent.mkdir(parents=True, exist_ok=True)
    environment = job_environment()
    if has_gpu(os.environ):
        asked = ["--spares"]
    else:
        asked = list(_IMPORTED)
        # Several jobs work at once (`tasks.job.cards`). With all processors each, two would not be faster
        # than one after the other; with half of them each, they take 1.5 times less.
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))} | environment
    process = trees.start_session(
        [sys.executable, "-m", "tasks.starter", path, *asked], environment, paths.log("starter"),
        stdin=subprocess.PIPE,
    )  # fmt: skip
    os.environ |= environment | {STARTER: path}  # it forks for those who have the variables that it has
    try:
        yield
    finally:
        del os.environ[STARTER]
        trees.stop(process, seconds=1.0)


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """As `trees.start_session`; the process stands for the job's where a starter is there and takes it."""
    return trees.start_session(forked(command, environment), environment, log)


def forked(command: Sequence[str], environment: Mapping[str, str | None]) -> list[str]:
    """The command with which a starter is asked for this one, where there is a starter."""
    starter = environment.get(STARTER)
    return [sys.executable, "-S", "-P", stand_in.__file__, starter, *command] if starter else list(command)
