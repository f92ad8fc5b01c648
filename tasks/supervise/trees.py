"""Process trees: start a process, see how it ended, and stop it together with everything below it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tasks.supervise.records import open_private

_POLL_SECONDS = 0.05
_KILLED_SECONDS = 5.0
"""Longest wait for a process that was sent SIGKILL; one in uninterruptible I/O may take longer."""


def start_session(
    command: Sequence[str], environment: Mapping[str, str], log: Path, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a process in a session and process group of its own; its output is appended to `log`.

    It does not get the terminal's Ctrl-C, and `stop` can end its whole group.
    """
    # A shell starts background commands with SIGINT ignored, and an ignored signal stays ignored in every
    # descendant; Prefect's workers stop by SIGINT. `preexec_fn` is not safe beside threads, hence the test.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    with open_private(log, "ab") as output:
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o077,  # logs, records and work folders are nobody else's, whatever the user's own mask
            preexec_fn=_default_interrupt if ignored else None,
        )


def _default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_child(
    command: Sequence[str], environment: Mapping[str, str], pipes: bool = False
) -> subprocess.Popen[bytes]:
    """Start a process in this process's group, so that whatever ends the group ends it too.

    Its streams are this process's own; with `pipes` its input and output are unbuffered pipes to it.
    """
    stream = subprocess.PIPE if pipes else None
    return subprocess.Popen(command, env=dict(environment), stdin=stream, stdout=stream, bufsize=0)


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended. It is not reaped, so its process and group number stay its own."""
    return _exit_status(process, os.WNOHANG) is not None


def exit_code(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child without reaping it; its exit code, or minus the number of the signal that ended it."""
    ended = _exit_status(process)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _exit_status(process: subprocess.Popen[bytes], options: int = 0) -> os.waitid_result | None:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | options)


def death(code: int) -> str:
    """An exit code in words: `was killed by SIGKILL`, `ended with code 1`."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a child to end (SIGTERM), wait up to `seconds`, kill what is left of its tree and group, reap it.

    Only the child itself is asked: it knows in which order to end what it started. Safe to call twice.
    """
    if process.returncode is not None:
        return
    end([psutil.Process(process.pid)], seconds)
    # The child is not reaped yet, so no other group can have its number. Members of its group that lost
    # their parent are in nobody's tree; this is what finds them.
    if os.getpgid(process.pid) == process.pid:
        members = _group(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        kill(members)
    process.wait()


def _group(number: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == number:
                members.append(process)
    return members


def end(processes: Iterable[psutil.Process], seconds: float) -> int:
    """Ask each process to end, wait up to `seconds`, then kill those left and all descendants.

    The processes need not be children of this one. Returns how many there were, descendants included.
    """
    roots = list(processes)
    family = _with_descendants(roots)
    for process in roots:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + seconds
    while (alive := list(filter(is_alive, roots))) and time.monotonic() < deadline:
        # A descendant whose parent ends goes over to init and is in no tree any more: note it before.
        family |= _with_descendants(alive)
        time.sleep(_POLL_SECONDS)
    kill(family)
    return len(family)


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL those that still live and wait until they are gone."""
    family = set(processes)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + _KILLED_SECONDS
    # Not psutil.wait_procs: it would reap a child behind the back of its `Popen`.
    while any(map(is_alive, family)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def is_alive(process: psutil.Process) -> bool:
    """Whether this very process runs; a zombie, which its parent has not reaped yet, has ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _with_descendants(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    family = set(processes)
    for process in list(family):
        with suppress(psutil.NoSuchProcess):
            family |= set(process.children(recursive=True))
    return family
