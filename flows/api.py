"""What the `r1` command asks Prefect's server, over HTTP: importing Prefect takes seconds."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from flows import services
from flows.last_words import plain_reason

_FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
_UUID = re.compile(r"UUID: ([0-9a-f-]{36})")


@dataclass(frozen=True)
class RunState:
    type: str
    """Prefect's state type, e.g. `RUNNING`."""
    message: str
    started: datetime | None
    """When it began to run, by the server's clock; None before."""

    @property
    def final(self) -> bool:
        return self.type in _FINAL

    @property
    def reason(self) -> str:
        return plain_reason(self.message)


def submit(deployment: str, parameters: Mapping[str, Any]) -> str:
    """`prefect deployment run DEPLOYMENT --param ...`, literally; the flow run's id.

    Raises:
        ServiceError: the command's own last line.
    """
    done = services.command(
        [sys.executable, "-m", "prefect", "deployment", "run", deployment, *_words(parameters)]
    )
    found = _UUID.search(done.stdout)
    if done.returncode or not found:
        why = services.why(done)
        raise services.ServiceError(f"`{shown(deployment, parameters)}` {why}; `r1 run` tries it again")
    return found[1]


def shown(deployment: str, parameters: Mapping[str, Any]) -> str:
    """The command as a user would type it."""
    return shlex.join(["prefect", "deployment", "run", deployment, *_words(parameters)])


def _words(parameters: Mapping[str, Any]) -> list[str]:
    """Prefect reads a value as JSON where it is JSON, and else as text."""
    words = []
    for name, value in parameters.items():
        words += ["--param", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return words


def state(client: httpx.Client, flow_run: str) -> RunState:
    """Where a flow run is now.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    answer = client.get(f"flow_runs/{flow_run}", timeout=10).raise_for_status().json()
    found = answer["state"] or {}
    began = answer["start_time"]
    started = datetime.fromisoformat(began) if began else None
    return RunState(found.get("type", "PENDING"), found.get("message") or "", started)


def active_run(flow: str, parameters: Mapping[str, Any]) -> str | None:
    """The run of `flow` with these parameters that has begun and not ended, if there is one."""
    wanted = {
        "flows": {"name": {"any_": [flow]}},
        "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED", "PAUSED"]}}},
        "sort": "EXPECTED_START_TIME_DESC",
    }
    with services.client() as server:
        runs = server.post("flow_runs/filter", json=wanted).raise_for_status().json()
    for run in runs:
        given = {name: value for name, value in run["parameters"].items() if value}
        if {"preset": "tiny", **given} == parameters:
            return str(run["id"])
    return None


@dataclass(frozen=True)
class SuspendedRun:
    """A pipeline run that waits for a person."""

    id: str
    name: str
    pause_key: str
    """Of the question that it waits for (`flows.review_form`)."""


def suspended_runs(flow: str) -> list[SuspendedRun]:
    """The runs of `flow` that are suspended, oldest first.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    wanted = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
    with services.client() as server:
        runs = server.post("flow_runs/filter", json=wanted | {"sort": "EXPECTED_START_TIME_ASC"})
    found = runs.raise_for_status().json()
    return [SuspendedRun(r["id"], r["name"], r["state"]["state_details"]["pause_key"] or "") for r in found]


def resume(run: SuspendedRun, answer: Mapping[str, Any]) -> None:
    """Resume a suspended run, as the form of the UI does.

    Raises:
        ServiceError: the server refuses.
    """
    with services.client() as server:
        reply = server.post(f"flow_runs/{run.id}/resume", json={"run_input": dict(answer)})
        document = reply.raise_for_status().json()
    if document["status"] != "ACCEPT":
        raise services.ServiceError(f"run {run.name} was not resumed: {document['details'].get('reason')}")
