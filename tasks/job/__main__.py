"""The command of a job process.  `python -m tasks.job SPEC.json`

Exit codes: 0 done, 1 failed, 3 stopped after a checkpoint, 4 lost a service it depends on. Anything else, or
no `exit.json` beside the spec (4 leaves none), means that the process died; whoever started it may start it
again and it resumes.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from tasks.job.build import run_builds
from tasks.job.cards import step_aside
from tasks.job.spec import JobSpec
from tasks.supervise.leaving import leave
from tasks.supervise.records import Heartbeat
from tasks.supervise.watch import Watch


def main(argv: list[str] | None = None) -> NoReturn:
    """Raises what a stage raised, once its exit record is written."""
    parser = argparse.ArgumentParser(prog="python -m tasks.job", description=__doc__)
    parser.add_argument("spec", type=Path, help="a JobSpec as JSON; logs and records go beside it")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="stop when this process is gone")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    spec = JobSpec.model_validate_json(options.spec.read_bytes())
    step_aside(spec)
    heartbeat = Heartbeat(options.spec.parent / "heartbeat")
    with Watch(options.parent) as watch, watch.calling(heartbeat.beat):
        code = run_builds(spec, options.spec.parent, watch)
    leave(code)


if __name__ == "__main__":
    main()
