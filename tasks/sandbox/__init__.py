"""Runs model-written programs where they can do no harm, and brings back bytes (paper 2.2: code rewards).

A warm zygote (`zygote.py`) forks one process per program. Nothing that the program can reach knows the
expected results. They are compared in the caller's process, with plain JSON data that came over a pipe, so
that exiting, printing, patching builtins, lying objects or writing to the pipe gain it nothing that a right
answer would not.

Layers, each used where the kernel allows it (`sandbox_layers()` says which hold here):
    own session and process group, killed and reaped at the deadline; limits on CPU time, memory, file
    size, open files and processes; empty environment; user `nobody` where started by root; a root of its own
    with nothing but Python's library, read-only; user, network, IPC, process and mount namespaces; a private
    in-memory folder of 64 MiB; no capabilities; Landlock (reads below Python's library, writes in its own
    folder, nothing else); seccomp (a list of the system calls that it may make: no sockets, no new
    processes, no signals to others, no mounts, no memory outside its limits, and no change of any file's
    owner, mode, times or attributes, in its own folder either).

What it does not isolate: the kernel itself (a kernel exploit gets out; a virtual machine would be needed),
CPU caches and timing, total CPU time of many programs at once, and remains of earlier programs in the memory
of the zygote. A machine that lacks one of the `NEEDED` layers is refused unless the settings allow a weak
sandbox. Not Linux: not supported.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.supervise.peers import Peer

_START = 30.0
"""Seconds a zygote may take to start."""
_REPLY = 15.0
"""Seconds beyond the program's own that its zygote may take to isolate it, clean up and reply."""
_BOOT = "import sys; sys.path.insert(0, {folder!r}); import zygote; del sys.path[0]; zygote.main()"


NEEDED = (
    "separate_process_group",
    "resource_limits",
    "empty_environment",
    "unprivileged_user",
    "file_rules",
    "system_call_filter",
)
"""Without these a program could read this machine's files, use its network or reach other processes. The
namespaces and the private folder stand behind them as a second wall."""


class WeakSandboxError(RuntimeError):
    """This kernel lacks a layer that is needed, and the settings do not allow to go without."""


class SandboxError(RuntimeError):
    """The sandbox itself failed; says nothing about the program."""


@dataclass(frozen=True)
class Run:
    """What came of one program."""

    outcome: Literal["ended", "deadline", "output"]
    """`output`: it wrote more than 1 MiB."""
    status: int | None
    output: bytes


class Sandbox:
    """One zygote. Runs one program at a time; not thread-safe.

    Raises (all methods):
        PeerDied, PeerTimeout: the zygote was lost; make a new one.
    """

    def __init__(self, allow_weak: bool = False) -> None:
        """Raises WeakSandboxError where a needed layer is missing, unless `allow_weak`."""
        boot = _BOOT.format(folder=str(Path(__file__).parent))
        self._peer = Peer([sys.executable, "-I", "-S", "-c", boot], {})
        self.layers: dict[str, bool] = json.loads(self._peer.call(b'{"layers": true}', _START))
        try:
            require_layers(self.layers, allow_weak, "code sandbox", "leave the code domain out", "programs")
        except WeakSandboxError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._peer.pid

    @property
    def alive(self) -> bool:
        return self._peer.alive

    def run_stdin(self, program: str, stdin: str, seconds: float) -> Run:
        """Run a program on one input; `output` is what it printed."""
        return self._run({"program": program, "stdin": stdin, "seconds": seconds})[0]

    def run_calls(
        self, program: str, entry_point: str, calls: Sequence[Sequence[Any]], seconds: float
    ) -> tuple[Run, list[Any] | None]:
        """Call a function of the program, once for each list of arguments, in one process.

        `entry_point` is the name of a function, or `Class.method` or `Class().method`. The values are None
        where the program did not return them all as plain JSON data.
        """
        request = {"program": program, "entry_point": entry_point, "calls": list(calls), "seconds": seconds}
        run, nonce = self._run(request)
        return run, _values(run, nonce, len(calls))

    def run_tests(
        self, program: str, tests: str, entry_point: str | None, tolerance: float | None, seconds: float
    ) -> tuple[Run, dict[str, Any] | None]:
        """Run a test file against a program, each in a process of its own (`testing.py`).

        Returns {"passed", "total", "first"} or {"fault"}; None where the tests did not end by themselves.
        """
        request = {"program": program, "entry_point": entry_point, "tolerance": tolerance, "seconds": seconds}
        run, nonce = self._run(request, tests.encode(errors="replace"))
        if run.outcome == "ended" and not run.output.startswith(nonce):
            return run, {"fault": "reading them failed: they are nested too deeply or too long"}
        counts = _body(run, nonce)
        return run, counts if isinstance(counts, dict) else None

    def close(self) -> None:
        self._peer.close()

    def kill(self) -> None:
        self._peer.kill()

    def _run(self, request: dict[str, Any], *more: bytes) -> tuple[Run, bytes]:
        reply = self._peer.call(json.dumps(request).encode(), request["seconds"] + _REPLY, *more)
        head, _, output = reply.partition(b"\n")
        header = json.loads(head)
        if header["outcome"] == "not started":
            raise SandboxError("a layer of the sandbox that held at its start failed: see sandbox_layers()")
        return Run(header["outcome"], header["status"], output), header["nonce"].encode()


def sandbox_layers() -> dict[str, bool]:
    """Which layers hold on this machine, by name. Starts and ends a sandbox (about 0.2 s)."""
    sandbox = Sandbox(allow_weak=True)
    sandbox.close()
    return sandbox.layers


def require_layers(layers: dict[str, bool], allowed: bool, what: str, instead: str, trusted: str) -> None:
    """Raise WeakSandboxError where a `NEEDED` layer is missing; only log it where that is `allowed`."""
    missing = [name for name in NEEDED if not layers.get(name)]
    if missing and not allowed:
        remedy = "use another machine"
        if missing == ["unprivileged_user"]:  # only where it was started as root
            remedy = "start as another user than root, use a Python that user nobody can read"
        raise WeakSandboxError(
            f"this machine gives the {what} no {', '.join(missing)}: {remedy}, {instead}, or set "
            f"`allow_weak_sandbox: true` for the stage if you trust the {trusted}"
        )
    if missing:
        logging.getLogger(__name__).warning("the %s runs without %s, as allowed", what, ", ".join(missing))


def _values(run: Run, nonce: bytes, count: int) -> list[Any] | None:
    values = _body(run, nonce)
    return values if isinstance(values, list) and len(values) == count else None


def _body(run: Run, nonce: bytes) -> Any:
    """Return the JSON data behind the nonce and its length; None for anything else."""
    head, body = run.output[: len(nonce) + 4], run.output[len(nonce) + 4 :]
    if run.outcome != "ended" or run.status != 0 or not head.startswith(nonce):
        return None
    if int.from_bytes(head[len(nonce) :], "big") != len(body):
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
