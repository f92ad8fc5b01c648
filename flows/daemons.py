"""The processes of this machine's services, found again after any crash. No Prefect.

Everything that `r1 up` starts carries `R1_SERVICES=<its .r1 folder>` in its environment, and so do flow
runs and jobs below it; nothing that carries the mark outlives `r1 down`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from flows import paths
from flows.last_words import last_words
from tasks.supervise import trees
from tasks.supervise.records import read_json, write_json

MARK = "R1_SERVICES"


def start(name: str, command: list[str], environment: Mapping[str, str]) -> psutil.Process:
    """Start a service in a session of its own; its output goes to `.r1/logs/<name>.log`."""
    paths.log(name).parent.mkdir(parents=True, exist_ok=True)
    marked = {**environment, MARK: str(paths.home())}
    record = _record(name)
    process = trees.start_session([sys.executable, "-m", *command], marked, paths.log(name))
    started = psutil.Process(process.pid)
    try:
        write_json(record, {"pid": started.pid, "created": started.create_time()})
    except OSError:  # a full disk: a service that nobody finds again must not stay
        trees.stop(process, 5)
        raise
    return started


def running(name: str) -> psutil.Process | None:
    """The service, if the process that was started under this name still runs."""
    process = _recorded(name)
    return process if process is not None and trees.is_alive(process) else None


def _recorded(name: str) -> psutil.Process | None:
    """The process that was started under this name, while it lives or nobody has asked how it ended."""
    record = read_json(_record(name))
    if record is None:
        return None
    try:
        process = psutil.Process(record["pid"])
        # The number may belong to somebody else by now; number and start time together never do.
        return process if process.create_time() == record["created"] else None
    except psutil.NoSuchProcess:
        return None


def _record(name: str) -> Path:
    folder = paths.home() / "services"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.json"


def died(name: str) -> bool:
    """Whether the service was started and not stopped on purpose, and runs no longer."""
    return _record(name).exists() and running(name) is None


def forget(name: str) -> None:
    """Note that the service is stopped on purpose."""
    _record(name).unlink(missing_ok=True)


def death(name: str) -> str:
    """How the service ended and why, as far as that is known, in one line."""
    code = _exit_code(name)
    text = trees.death(code) if code is not None else "ended"
    # Whoever is killed writes no reason: the last line of its log would be a greeting.
    words = last_words(_log_end(name), failed=code is not None) if code is None or code >= 0 else ""
    return f"{text}{f': {words}' if words else ''} (log: {paths.log(name)})"


def _exit_code(name: str) -> int | None:
    """The exit code of a service that this very process started; None of another one's."""
    process = _recorded(name)
    try:
        return None if process is None else process.wait(timeout=0)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        return None


def _log_end(name: str, size: int = 8_192) -> str:
    try:
        with paths.log(name).open("rb") as file:
            file.seek(max(0, paths.log(name).stat().st_size - size))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


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
