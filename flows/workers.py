"""Local workers for several work pools in one process.  `python -m flows.workers cpu gpu-train gpu-rollout`

Where there is no GPU, a process that forks their flow runs and jobs runs beside them (`tasks.starter`).
On a machine of a cluster `prefect worker start --pool gpu-train`, in the repository, does the same for
one pool, and starts each of them as a new process.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from prefect.utilities.processutils import command_to_string
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from flows.starting import forked, started_beside


class ForkedRun(ProcessJobConfiguration):
    """Prefect's command of a flow run, asked of the starter."""

    def prepare_for_flow_run(self, *args: Any, **kwargs: Any) -> None:
        super().prepare_for_flow_run(*args, **kwargs)
        self.command = command_to_string(forked([sys.executable, "-m", "prefect.engine"], self.env))


class LocalWorker(ProcessWorker):
    """A process worker whose flow runs are forked where that can be."""

    job_configuration = ForkedRun


async def serve(pools: list[str]) -> None:
    """Run one worker per pool until the process is ended."""
    await asyncio.gather(*(LocalWorker(work_pool_name=pool, name=f"local-{pool}").start() for pool in pools))


if __name__ == "__main__":
    with started_beside():
        asyncio.run(serve(sys.argv[1:]))
