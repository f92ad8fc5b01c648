"""Runs a command while another process lives.  `python -m tasks.serving.guard PID FOLDER COMMAND ...`

A model server does not notice that the program that started it was killed. This process does, within a
second: it ends the server with all its workers and removes FOLDER, where their socket lies.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys

from tasks.supervise import trees
from tasks.supervise.watch import Watch

_LOOK_SECONDS = 0.2
_END_SECONDS = 5.0
"""From asking the server to end to killing it."""


def main(parent: int, folder: str, command: list[str]) -> int:
    with Watch(parent, grace=2 * _END_SECONDS) as watch:
        server = trees.start_child(command, os.environ)
        try:
            while not trees.has_ended(server) and not watch.stop.wait(_LOOK_SECONDS):
                pass
        finally:
            trees.stop(server, _END_SECONDS)
            shutil.rmtree(folder, ignore_errors=True)
    if server.returncode < 0:
        _die_by(-server.returncode)
    return server.returncode


def _die_by(number: int) -> None:
    """End as the server did, so that whoever looks at this process sees what killed it."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
