"""Prefect's server and workers on this machine: up, recovered after a crash, down. Imports no Prefect.

The server listens on loopback, asks for a string (`flows.server_auth`) and keeps its database under
`.r1/prefect`. Where `PREFECT_API_URL` names a server that is not ours (a cluster's), only workers are started
here, with the settings that the user made for it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from flows import daemons, paths, server_auth
from flows.last_words import last_words
from flows.pools import POOLS
from tasks import source_code
from tasks.settings import REPOSITORY
from tasks.supervise import trees
from tasks.supervise.records import open_private

_REGISTER = ("flows.register", "deploy")
_START_SECONDS = 180.0
_DOWN_SECONDS = 15.0
_ROOM = 2**20
"""Bytes that must be free for the services to start."""

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


def client() -> httpx.Client:
    """Asks the server, with what it wants to see."""
    return httpx.Client(base_url=api_url(), headers=server_auth.headers(api_url()), timeout=30)


def require_checkout() -> None:
    """Services need a checkout of the repository, and to be asked for in its folder.

    Raises:
        ServiceError: this is none, as where the package was installed from a wheel.
    """
    missing = [name for name in ("prefect.toml", "prefect.yaml", "flows") if not Path(name).exists()]
    if missing:
        raise ServiceError(
            f"{missing[0]} is not here: run this in the repository's folder (a checkout; an installed wheel "
            "alone has no workers, and serves `r1 plan`, `ls`, `show`, `sql` and `export`)"
        )
    if Path.cwd().resolve() != REPOSITORY:
        raise ServiceError(
            f"this `r1` runs the code of {REPOSITORY}, and the folder is {Path.cwd()}: run it there, or "
            "install this checkout (`make setup`) and use its .venv/bin/r1"
        )


def environment() -> dict[str, str]:
    """Environment of the Prefect server, workers and commands that `r1` starts."""
    private = {
        "PREFECT_HOME": str(paths.home() / "prefect"),
        "PREFECT_API_URL": api_url(),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    return {**os.environ, **private}


def is_ours() -> bool:
    """Whether the server is the one that was started here."""
    return server_auth.own_string(api_url()) is not None


def is_up() -> bool:
    return daemons.running("workers") is not None and _healthy()


def up(say: Say) -> None:
    """Server, pools, deployments, workers; what runs already is left alone.

    Raises:
        ServiceError: the port is taken, or something did not start.
    """
    api_url()  # says so in a wrong folder, before anything is made there
    require_checkout()
    with _room(), _alone(), closing(_Registration()) as registration:
        _refuse_other_checkout()
        ours = _server(say, registration.begin)

        def workers() -> None:
            if daemons.running("workers") is None:
                if ours:
                    _end_dead_runs(say)
                say(f"starting workers for {', '.join(POOLS)}")
                daemons.start("workers", ["flows.workers", *POOLS], environment())

        registration.complete(say, workers)
        workers()


def revive(say: Say) -> bool:
    """Start again what died of the services that `up` started; whether anything had.

    What was stopped by `down` stays down.

    Raises:
        ServiceError: it does not start.
    """
    dead = [name for name in ("server", "workers") if daemons.died(name)]
    for name in dead:
        say(f"the process of the {name} {daemons.death(name)}: starting it again")
    if dead:
        up(say)
    return bool(dead)


def down() -> int:
    """End everything that `up` started, jobs and flow runs included; how many processes there were."""
    server = daemons.running("server")
    for name in ("workers", "server"):
        daemons.forget(name)
    last = {server, *server.children(recursive=True)} if server else set()
    count = trees.end(set(daemons.marked()) - last, _DOWN_SECONDS)
    return count + trees.end(daemons.marked(), _DOWN_SECONDS)


@contextmanager
def _room() -> Iterator[None]:
    """Refuse a disk without room: Prefect's database and logs would break in ways that say nothing."""
    probe = paths.home() / f".room-{os.getpid()}"
    try:
        paths.home().mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with open_private(probe, "wb") as file:
                file.write(bytes(_ROOM))
        finally:
            probe.unlink(missing_ok=True)
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ServiceError(
            f"the disk of {paths.home()} is full: free some space (`r1 gc --yes` removes artifacts that no "
            "name reaches), or set R1_HOME to another disk; then `r1 run` goes on"
        ) from error


@contextmanager
def _alone() -> Iterator[None]:
    """One `up` at a time; what it writes is its user's own."""
    paths.home().mkdir(parents=True, exist_ok=True, mode=0o700)
    with open_private(paths.home() / "up.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _healthy() -> bool:
    try:
        return httpx.get(f"{api_url()}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _server(say: Say, begun: Callable[[], None] = lambda: None) -> bool:
    """A server that answers; whether it is ours. `begun` is called once ours can be asked for its string."""
    url = api_url()
    process = daemons.running("server")
    if process is None and _healthy():
        if "PREFECT_API_URL" in os.environ:
            _usable(url)
            daemons.forget("server")  # one of ours that died earlier is not needed any more
            return False
        raise ServiceError(
            f"another server answers at {url}: stop it, or `export PREFECT_API_URL="
            "http://127.0.0.1:4300/api` to use another port"
        )
    if process is None and not server_auth.is_loopback(url):
        raise ServiceError(f"no Prefect server answers at {url} (PREFECT_API_URL): start it, or unset it")
    if process is None:
        say("starting the Prefect server (the first start takes about 15 s)")
        port = str(urlsplit(url).port or 4200)
        command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        daemons.start("server", command, environment())
    _wait_for_server(begun)
    if _is_open():
        down()
        raise ServiceError(
            "the Prefect server started without authentication and was stopped again, as the plugin `r1` did "
            "not load: run `make setup`, and keep [plugins] in prefect.toml"
        )
    return True


def _usable(url: str) -> None:
    """Refuse a server of others that anybody on the network may use, or that refuses us."""
    if not server_auth.is_loopback(url) and _is_open():
        raise ServiceError(
            f"the Prefect server at {url} asks for no authentication, so everybody who reaches it could run "
            "commands here: set PREFECT_SERVER_API_AUTH_STRING there and PREFECT_API_AUTH_STRING here"
        )
    with client() as ours:
        if ours.get("admin/version").status_code in (401, 403):
            raise ServiceError(
                f"the Prefect server at {url} refuses us: set PREFECT_API_AUTH_STRING to its string"
            )


def _is_open() -> bool:
    """Whether the server answers to one who shows nothing."""
    return httpx.get(f"{api_url()}/admin/version", timeout=30).status_code == 200


def _wait_for_server(begun: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _healthy():
        if is_ours():
            begun()
        if daemons.running("server") is None:
            raise ServiceError(f"the Prefect server {daemons.death('server')}; `r1 run` starts it again")
        if time.monotonic() > deadline:
            log, took = paths.log("server"), f"{_START_SECONDS:.0f} s"
            raise ServiceError(f"the Prefect server gave no answer in {took}: see {log}, then `r1 run` again")
        time.sleep(0.2)


def _refuse_other_checkout() -> None:
    """The workers that run here would run the code of the folder that they were started in.

    Raises:
        ServiceError: that is not this one.
    """
    workers = daemons.running("workers")
    if workers is not None and (folder := Path(workers.cwd())) != Path.cwd().resolve():
        raise ServiceError(
            f"the workers of {paths.home()} were started in {folder}, and this is {Path.cwd()}: `r1 down` "
            "first, or set R1_HOME and PREFECT_API_URL for services of this folder's own"
        )


class _Registration:
    """Pools and deployments, when the code that they stand for changed since the last time."""

    def __init__(self) -> None:
        self._record, self._state = paths.home() / "prefect" / "registered", _definitions()
        self._is_new = not self._record.is_file()
        self._done = not self._is_new and self._record.read_text() == self._state
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Start the process that will do it. It only imports what it needs: that takes as long as the
        server's own start."""
        if not self._done and self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *_REGISTER], env=_wide(), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

    def complete(self, say: Say, pools_there: Callable[[], None]) -> None:
        """Register. `pools_there` is called before the deployments follow, where there were none of other
        code, whose runs might wait for a worker.

        Raises:
            ServiceError: it failed.
        """
        if self._done:
            return
        self.begin()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        say("registering work pools and deployments")
        with suppress(BrokenPipeError):
            process.stdin.write("now\n")
            process.stdin.flush()
        while self._is_new and process.poll() is None:
            if _pools_there():
                pools_there()
                break
            time.sleep(0.5)
        output, errors = process.communicate()
        if process.returncode:
            done = subprocess.CompletedProcess(_REGISTER, process.returncode, output, errors)
            raise ServiceError(f"`python -m {' '.join(_REGISTER)}` {why(done)}; `r1 run` tries it again")
        with open_private(self._record, "w") as file:
            file.write(self._state)

    def close(self) -> None:
        if self._process is not None:
            with self._process as process:  # which waits for its end
                process.kill()


def _pools_there() -> bool:
    """Not while the server is too busy to say so."""
    try:
        with client() as server:
            return all(server.get(f"work_pools/{name}").status_code == 200 for name in POOLS)
    except httpx.TransportError:
        return False


def _definitions() -> str:
    """Digest of what deployments are made from: all code, since a run of other code is refused."""
    known = f"{api_url()} {metadata.version('prefect')} {source_code.code_bytes(Path.cwd())} "
    return hashlib.sha256(known.encode() + Path("prefect.yaml").read_bytes()).hexdigest()


def command(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Its output is wide, so that no line of an error is folded into two."""
    return subprocess.run(
        words, env=_wide(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _wide() -> dict[str, str]:
    return {**environment(), "COLUMNS": "1000", "NO_COLOR": "1"}


def why(done: subprocess.CompletedProcess[str]) -> str:
    """How a command failed and what it said, in one line: `failed: …`, `was killed by SIGKILL`."""
    words = last_words(done.stderr) or last_words(done.stdout)
    if done.returncode < 0 or not words:
        return trees.death(done.returncode) + (f": {words}" if words else " and said nothing")
    return f"failed: {words}"


def _end_dead_runs(say: Say) -> None:
    """Mark runs as crashed whose processes are gone; otherwise they occupy their pool's slots forever."""
    alive = daemons.live_flow_runs()
    with client() as server:
        unfinished = {
            "state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING", "PAUSED", "SCHEDULED"]}}
        }
        runs = server.post("flow_runs/filter", json={"flow_runs": unfinished}).raise_for_status().json()
        dead = [run for run in runs if run["id"] not in alive and not _waits_for_a_worker(run)]
        for run in dead:
            state = {"type": "CRASHED", "message": "its process was gone when the services came up"}
            answer = server.post(f"flow_runs/{run['id']}/set_state", json={"state": state, "force": True})
            answer.raise_for_status()
    if dead:
        say(f"marked {len(dead)} runs of an earlier life as crashed")


def _waits_for_a_worker(run: dict[str, object]) -> bool:
    """Scheduled by a user, not by a pipeline that is gone; or suspended until a person reviewed its data."""
    waits = run["state_type"] == "SCHEDULED" or run["state_name"] == "Suspended"
    return waits and run["parent_task_run_id"] is None
