"""Prefect's server and workers on this machine: up, recovered after a crash, down. Imports no Prefect.

The server listens on loopback and keeps its database under `.r1/prefect`. Where `PREFECT_API_URL` names a
server that is not ours (a cluster's), only workers are started here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from flows import daemons, paths
from flows.pools import POOLS
from tasks.supervise import trees

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_START_SECONDS = 180.0
_DOWN_SECONDS = 15.0

Say = Callable[[str], None]


class ServiceError(RuntimeError):
    """The services cannot be brought up; one line with the remedy."""


def api_url() -> str:
    """`PREFECT_API_URL`, or the address in `prefect.toml`."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url.rstrip("/")
    if not Path("prefect.toml").is_file():
        raise ServiceError("prefect.toml is not here: run this in the repository's folder")
    return str(tomllib.loads(Path("prefect.toml").read_text())["api"]["url"])


def ui_url() -> str:
    return api_url().removesuffix("/api")


def environment() -> dict[str, str]:
    """What every Prefect process of ours runs with."""
    private = {
        "PREFECT_HOME": str(paths.home() / "prefect"),
        "PREFECT_API_URL": api_url(),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    return {**os.environ, **private}


def is_up() -> bool:
    return daemons.running("workers") is not None and _healthy()


def up(say: Say) -> None:
    """Server, pools, deployments, workers; what runs already is left alone.

    Raises:
        ServiceError: the port is taken, or something did not start.
    """
    with _alone():
        ours = _server(say)
        _registered(say)
        if daemons.running("workers") is None:
            if ours:
                _end_dead_runs(say)
            say(f"starting workers for {', '.join(POOLS)}")
            daemons.start("workers", ["flows.workers", *POOLS], environment())


def down() -> int:
    """End everything that `up` started, jobs and flow runs included; how many processes there were."""
    server = daemons.running("server")
    last = {server, *server.children(recursive=True)} if server else set()
    count = trees.end(set(daemons.marked()) - last, _DOWN_SECONDS)
    return count + trees.end(daemons.marked(), _DOWN_SECONDS)


@contextmanager
def _alone() -> Iterator[None]:
    """One `up` at a time."""
    paths.home().mkdir(parents=True, exist_ok=True)
    with (paths.home() / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _healthy() -> bool:
    try:
        return httpx.get(f"{api_url()}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _server(say: Say) -> bool:
    """A server that answers; whether it is ours."""
    address = urlsplit(api_url())
    process = daemons.running("server")
    if process is None and _healthy():
        if "PREFECT_API_URL" in os.environ:
            return False
        raise ServiceError(
            f"another server answers at {api_url()}: stop it, or `export PREFECT_API_URL="
            "http://127.0.0.1:4300/api` to use another port"
        )
    if process is None and address.hostname not in _LOOPBACK:
        raise ServiceError(
            f"no Prefect server answers at {api_url()} (PREFECT_API_URL): start it, or unset it"
        )
    if process is None:
        say("starting the Prefect server (the first start takes about 15 s)")
        command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(address.port or 4200)]
        daemons.start("server", command, environment())
    _wait_for_server()
    return True


def _wait_for_server() -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _healthy():
        if daemons.running("server") is None:
            raise ServiceError(f"the Prefect server ended: {daemons.log_tail('server')}")
        if time.monotonic() > deadline:
            logs = paths.home() / "logs"
            raise ServiceError(f"the Prefect server gave no answer in {_START_SECONDS:.0f} s: see {logs}")
        time.sleep(0.2)


def _registered(say: Say) -> None:
    """Pools and deployments, when what defines them changed since the last time."""
    record = paths.home() / "prefect" / "registered"
    state = _definitions()
    if record.is_file() and record.read_text() == state:
        return
    say("registering work pools and deployments")
    _python("flows.register")
    _python("prefect", "--no-prompt", "deploy", "--all")
    record.write_text(state)


def _definitions() -> str:
    """Digest of what deployments are made from."""
    digest = hashlib.sha256(f"{api_url()} {metadata.version('prefect')}".encode())
    sources = (*sorted(Path("flows").glob("*.py")), *sorted(Path("tasks").glob("*/stage.py")))
    for path in (Path("prefect.yaml"), *sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _python(*module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *module],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no output"]
        raise ServiceError(f"`python -m {' '.join(module)}` failed: {reason[0]}")


def _end_dead_runs(say: Say) -> None:
    """Runs of an earlier life whose processes are gone hold pool slots for ever: crash them."""
    alive = daemons.live_flow_runs()
    with httpx.Client(base_url=api_url(), timeout=30) as client:
        unfinished = {
            "state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING", "PAUSED", "SCHEDULED"]}}
        }
        runs = client.post("flow_runs/filter", json={"flow_runs": unfinished}).raise_for_status().json()
        dead = [run for run in runs if run["id"] not in alive and not _waits_for_a_worker(run)]
        for run in dead:
            state = {"type": "CRASHED", "message": "its process was gone when the services came up"}
            answer = client.post(f"flow_runs/{run['id']}/set_state", json={"state": state, "force": True})
            answer.raise_for_status()
    if dead:
        say(f"marked {len(dead)} runs of an earlier life as crashed")


def _waits_for_a_worker(run: dict[str, object]) -> bool:
    """Scheduled by a user, not by a pipeline that is gone."""
    return run["state_type"] == "SCHEDULED" and run["parent_task_run_id"] is None
