"""Makes the server ready for our deployments: work pools, their limits, the watch for lost machines.

`python -m flows.register`, once per server; `prefect --no-prompt deploy --all` then adds the deployments.
`python -m flows.register deploy` does both once it reads a line: `r1 up` starts it while the server still
starts, as both take seconds to import Prefect.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events import EventTrigger
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, Posture
from prefect.exceptions import ObjectAlreadyExists

from flows.pools import POOLS

JOB_TEMPLATE = {
    "job_configuration": {"working_dir": "."},
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}
"""What a run on our pools may set of the process it gets: nothing.

Prefect's own template lets whoever starts a run choose the command, the environment and the folder. The
folder is the worker's own. A variable `env` that is only undeclared would still be merged if the
configuration had an `env`; the server refuses variables that `additionalProperties` does not allow.
"""

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = {
    f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "Suspended")
}
"""What ends the heartbeats of a run; one that waits for a person has no process."""
_SILENCE = timedelta(seconds=150)
"""Five heartbeats (`prefect.toml`, 30 s)."""
_LOST_MACHINES = "r1: runs of lost machines"


def main() -> None:
    deploys = sys.argv[1:] == ["deploy"]
    if deploys:
        importlib.import_module("prefect.cli.deploy")
        if not sys.stdin.readline():
            return
    with get_client(sync_client=True) as client:
        for name, limit in POOLS.items():
            _pool(client, name, limit)
        _watch_for_lost_machines(client)
    if deploys:
        sys.argv[:] = ["prefect", "--no-prompt", "deploy", "--all"]
        runpy.run_module("prefect", run_name="__main__")


def _pool(client: SyncPrefectClient, name: str, limit: int | None) -> None:
    pool = WorkPoolCreate(name=name, type="process", concurrency_limit=limit, base_job_template=JOB_TEMPLATE)
    try:
        client.create_work_pool(pool)
    except ObjectAlreadyExists:
        # The limit stays: a person may have set it (`prefect work-pool set-concurrency-limit`).
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=JOB_TEMPLATE))


def _watch_for_lost_machines(client: SyncPrefectClient) -> None:
    """A run that stops beating without an end is crashed, so that it holds no slot and is started again."""
    trigger = EventTrigger(
        after={_HEARTBEAT},
        expect={_HEARTBEAT, *_ENDS},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=_SILENCE,
    )
    crash = ChangeFlowRunState(
        name=None, state=StateType.CRASHED, message="no heartbeat: its machine is lost", force=False
    )
    watch = AutomationCore(name=_LOST_MACHINES, trigger=trigger, actions=[crash])
    known = client.read_automations_by_name(name=_LOST_MACHINES)
    if not known:
        client.create_automation(watch)
    for earlier in known:
        client.update_automation(earlier.id, watch)


if __name__ == "__main__":
    main()
