"""How job processes start: as forks of one that has everything imported (`tasks.starter`), else as new ones.

`started_beside` is for a worker; flow runs below it find the starter by the variable `R1_STARTER`.
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


@contextmanager
def started_beside() -> Iterator[None]:
    """A starter for the jobs of this process's children, where there is no GPU."""
    if has_gpu(os.environ):
        yield
        return
    # A socket's path has at most 107 characters: it does not lie in R1_HOME.
    with tempfile.TemporaryDirectory(prefix="r1-") as folder:
        path = str(Path(folder) / "starter")
        paths.log("starter").parent.mkdir(parents=True, exist_ok=True)
        process = trees.start_session(
            [sys.executable, "-m", "tasks.starter", path], job_environment(), paths.log("starter"),
            stdin=subprocess.PIPE,
        )  # fmt: skip
        os.environ[STARTER] = path
        try:
            yield
        finally:
            del os.environ[STARTER]
            trees.stop(process, seconds=1.0)


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """As `trees.start_session`; the process stands for the job's where a starter is there and takes it."""
    if starter := environment.get(STARTER):
        command = [sys.executable, "-S", "-P", stand_in.__file__, starter, *command]
    return trees.start_session(command, environment, log)
