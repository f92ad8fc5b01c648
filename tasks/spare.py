"""A job process that waits for its job with everything imported.  `python -m tasks.spare`

It reads one line of JSON from its input: the words of `python -m tasks.job` and the log to write to. At the
end of its input it ends.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec

from tasks.job.__main__ import main
from tasks.job.build import imported_code, load
from tasks.recipe import STAGES
from tasks.rollout.engines import ENGINES
from tasks.supervise.records import open_private


def import_stages() -> None:
    """Every stage's entry, and with it torch, transformers and TRL; what was imported is noted."""
    for stage in STAGES.values():
        imported_code(stage.entry)
        load(stage.entry)


def import_all() -> None:
    """The stages, and every installed engine's package; none of them touches a GPU by its import."""
    for package in {entry.package for entry in ENGINES.values() if entry.package}:
        if find_spec(package):
            __import__(package)
    import_stages()


def wait() -> None:
    import_all()
    line = sys.stdin.readline()
    if not line:
        return
    asked = json.loads(line)
    with open_private(asked["log"], "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    main(asked["words"])


if __name__ == "__main__":
    wait()
