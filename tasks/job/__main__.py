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
from collections.abc import Mapping
from pathlib import Path

from artifacts.checks import redacted
from tasks.job.build import run_builds
from tasks.job.spec import JobSpec
from tasks.supervise.records import Heartbeat
from tasks.supervise.watch import Watch


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.job", description=__doc__)
    parser.add_argument("spec", type=Path, help="a JobSpec as JSON; logs and records go beside it")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="stop when this process is gone")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    spec = with_store_address(JobSpec.model_validate_json(options.spec.read_bytes()), os.environ)
    os.environ |= visible_gpus(spec, os.environ)
    heartbeat = Heartbeat(options.spec.parent / "heartbeat")
    with Watch(options.parent) as watch, watch.calling(heartbeat.beat):
        sys.exit(run_builds(spec, options.spec.parent, watch))


def with_store_address(spec: JobSpec, environment: Mapping[str, str]) -> JobSpec:
    """The spec with the store's full address: credentials in it are in the environment, never in the file."""
    address = environment.get("R1_STORE", "")
    return spec.model_copy(update={"store": address}) if redacted(address) == spec.store else spec


def visible_gpus(spec: JobSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """One GPU (the first that is visible) for a job of one process: with several in sight, the trainers would
    copy the model to all of them in one process, which TRL refuses. Set before anything imports torch."""
    if any(build.config.get("launch", {}).get("processes", 1) > 1 for build in spec.builds):
        return {}
    return {"CUDA_VISIBLE_DEVICES": environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]}


if __name__ == "__main__":
    main()
