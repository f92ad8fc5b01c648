"""Local workers for several work pools in one process.  `python -m flows.workers cpu gpu-train gpu-rollout`

Where there is no GPU, a process that forks their jobs runs beside them (`tasks.starter`).
On a machine of a cluster `prefect worker start --pool gpu-train`, in the repository, does the same for
one pool.
"""

from __future__ import annotations

import asyncio
import sys

from prefect.workers.process import ProcessWorker

from flows.starting import started_beside


async def serve(pools: list[str]) -> None:
    """Run one worker per pool until the process is ended."""
    await asyncio.gather(
        *(ProcessWorker(work_pool_name=pool, name=f"local-{pool}").start() for pool in pools)
    )


if __name__ == "__main__":
    with started_beside():
        asyncio.run(serve(sys.argv[1:]))
