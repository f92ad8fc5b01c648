"""Local workers for several work pools in one process.  `python -m flows.workers cpu gpu-train gpu-rollout`

On a machine of a cluster `prefect worker start --pool gpu-train`, in the repository, does the same for
one pool.
"""

from __future__ import annotations

import asyncio
import sys

from prefect.workers.process import ProcessWorker


async def serve(pools: list[str]) -> None:
    """Run one worker per pool until the process is ended."""
    await asyncio.gather(
        *(ProcessWorker(work_pool_name=pool, name=f"local-{pool}").start() for pool in pools)
    )


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
