"""The processes of this machine's services, found again after any crash. No Prefect.

Everything that `r1 up` starts carries `R1_SERVICES=<its .r1 folder>` in its environment, and so do flow
runs and jobs below it; nothing that carries the mark outlives `r1 down`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

from flows import paths
from tasks.job import write_json

MARK = "R1_SERVICES"


def start(name: str, command: list[str], environment: Mapping[str, str]) -> psutil.Process:
    """Start a service in a session of its own; its output goes to `.r1/logs/<name>.log`."""
    log = paths.home() / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**environment, MARK: str(paths.home())},
            start_new_session=True,
            preexec_fn=_default_interrupt,
        )
    started = psutil.Process(process.pid)
    write_json(_record(name), {"pid": started.pid, "created": started.create_time()})
    return started


def _default_interrupt() -> None:
    """A shell starts background commands with SIGINT ignored; Prefect's workers stop by it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def running(name: str) -> psutil.Process | None:
    """The service, if the process that was started under this name still runs."""
    try:
        record = json.loads(_record(name).read_text())
        process = psutil.Process(record["pid"])
        same = process.create_time() == record["created"]
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if same and is_alive(process) else None


def _record(name: str) -> Path:
    folder = paths.home() / "services"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.json"


def log_tail(name: str, lines: int = 5) -> str:
    log = paths.home() / "logs" / f"{name}.log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def marked() -> list[psutil.Process]:
    """Every live process that carries this folder's mark."""
    return [process for process, _ in _marked_with_environment()]


def live_flow_runs() -> set[str]:
    """Ids of the flow runs that have a process on this machine; a job that outlived its flow is none."""
    return {
        environment["PREFECT__FLOW_RUN_ID"]
        for process, environment in _marked_with_environment()
        if "PREFECT__FLOW_RUN_ID" in environment and _is_engine(process)
    }


def _is_engine(process: psutil.Process) -> bool:
    try:
        return "prefect.engine" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _marked_with_environment() -> list[tuple[psutil.Process, dict[str, str]]]:
    home = str(paths.home())
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if environment.get(MARK) == home and process.pid != os.getpid():
            found.append((process, environment))
    return found


def end(processes: Iterable[psutil.Process], seconds: float) -> int:
    """Terminate, wait, kill; descendants too. How many there were."""
    family = set(processes)
    for process in list(family):
        family |= set(_each([process], lambda p: p.children(recursive=True)))
    _each(family, lambda p: p.terminate())
    left = _alive_after(family, seconds)
    _each(left, lambda p: p.kill())
    _alive_after(left, 5)
    return len(family)


def _alive_after(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that outlive `seconds`; a zombie, which its parent has not collected, counts as ended."""
    deadline = time.monotonic() + seconds
    while (alive := list(filter(is_alive, processes))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _each(
    processes: Iterable[psutil.Process], act: Callable[[psutil.Process], list[psutil.Process] | None]
) -> list[psutil.Process]:
    """`act` on those that still live; what it returned, in one list."""
    results: list[psutil.Process] = []
    for process in processes:
        try:
            results += act(process) or []
        except psutil.NoSuchProcess:
            continue
    return results
