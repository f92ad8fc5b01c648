"""Job processes started ahead of their jobs: they import what jobs import, and wait to be told which to do.

torch, TRL and vLLM take 15 to 30 s to import. While one job holds the GPU, the processes of the next two
import them on the processor: of the jobs of a small model many are shorter than the imports. They touch no
CUDA before their job begins. One that is never asked ends with its parent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.supervise import trees

_WAITING = 2
_PROCESS = ("-m", "tasks.spare")


class SpareProcesses:
    """Starts job processes like `trees.start_session`, each from the oldest that was started before."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment, self._log = environment, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._waiting = [self._new() for _ in range(_WAITING)]

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """A waiting process takes the job of `python -m tasks.job WORDS`; another one is started."""
        process = self._waiting[0]
        if environment != self._environment:
            return trees.start_session(command, environment, log)
        self._waiting = [*self._waiting[1:], self._new()]
        if _given(process, command[command.index("-m") + 2 :], log):
            return process
        trees.stop(process, seconds=0.0)
        return trees.start_session(command, environment, log)

    def close(self) -> None:
        for process in self._waiting:
            trees.stop(process, seconds=0.0)

    def _new(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, *_PROCESS, "--parent", str(os.getpid())]
        return trees.start_session(command, self._environment, self._log, stdin=subprocess.PIPE)


def _given(process: subprocess.Popen[bytes], words: Sequence[str], log: Path) -> bool:
    """Whether the process took the job; not if it has died while it waited."""
    assert process.stdin is not None
    if trees.has_ended(process):
        return False
    try:
        process.stdin.write(json.dumps({"words": list(words), "log": str(log)}).encode() + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        return False
    return True
