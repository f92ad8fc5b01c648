"""The process that model-written programs are forked from. Standard library only; never holds an answer.

Started by `tasks.sandbox` as `python -I -S` with an empty environment. It reads one request a
frame, forks a guardian (which takes the namespaces) and from it the program, collects at most
`MAX_OUTPUT` bytes from the pipe until the program ends or its time is up, kills what is left, and replies
with a JSON line and the raw bytes. It never interprets those bytes.

    request   {"program", "entry_point", "calls": [[argument, ...], ...], "seconds"}      function style
              {"program", "stdin", "seconds"}                                             stdin style
              {"layers": true}                                                            what holds here
    reply     {"outcome": "ended" | "deadline" | "output", "status": n, "nonce": text}\\n<bytes>
"""

from __future__ import annotations

import fcntl
import gc
import io
import json
import os
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, NoReturn

# Both lie beside this file, which runs as a script; mypy sees packages only.
import isolation  # type: ignore[import-not-found]
from plain import plain  # type: ignore[import-not-found]

MAX_OUTPUT = 2**20
MEMORY = 512 * 2**20
FILE_SIZE = 16 * 2**20
FOLDER_SIZE = 64 * 2**20
START_SECONDS = 10.0
"""Longest wait for the isolation of a program, before its own time begins."""
STARTED = b"+"
_SEALS = 0xF
"""All seals of a memfd: it cannot be written, grown or shrunk, and no seal can be removed."""

PREIMPORTED = (
    *("bisect", "collections", "dataclasses", "datetime", "decimal", "fractions", "functools", "heapq"),
    *("itertools", "math", "operator", "random", "re", "string", "typing"),
)


# ---- in the program's process --------------------------------------------------------------------


def isolate(layers: dict[str, bool], seconds: float) -> None:
    """Take every layer that holds on this machine. Raises OSError where one of them fails now."""
    isolation.die_with_parent()
    os.umask(0o077)
    isolation.limit_resources(seconds, MEMORY, FILE_SIZE)
    for name, wall in process_walls().items():
        if layers.get(name):
            wall()


def process_walls() -> dict[str, Callable[[], None]]:
    return {
        "capabilities_dropped": isolation.drop_capabilities,
        "file_rules": lambda: isolation.confine_files(readable(), [os.getcwd()]),
        "system_call_filter": isolation.allow_system_calls,
    }


def readable() -> list[str]:
    """Return the folders and files that a program may read, beside its own."""
    own, base = os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib")
    devices = ("/dev/null", "/dev/urandom", "/dev/zero")
    return [own, base, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", *devices]


def run_program(request: dict[str, Any], result: BinaryIO) -> None:
    """Run the program with its standard streams in place; write what is asked for to `result`."""
    import builtins

    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # as `site` would have set them
    module = types.ModuleType("__main__" if "stdin" in request else "answer")
    sys.modules[module.__name__] = module
    sys.path[:] = [path for path in sys.path if "python" in path]
    try:
        exec(compile(request["program"], "<answer>", "exec"), module.__dict__)
        if "stdin" not in request:
            function = getattr(module, request["entry_point"])
            # Each value is copied before the next call, which may change it.
            values = [plain(function(*arguments)) for arguments in request["calls"]]
            body = json.dumps(values, allow_nan=False).encode()
            result.write(request["nonce"].encode() + struct.pack(">I", len(body)) + body)
    finally:
        result.flush()
        sys.stdout.flush()


def become_program(
    request: dict[str, Any], stdin: int | None, output: int, started: int, layers: dict[str, bool]
) -> NoReturn:
    """Isolate this process, say so on `started`, run the program. Never returns.

    Descriptors: 0 the input, 1 and 2 the output or nothing, 3 the pipe to the harness. `started` is closed
    before the program's first line, so that no program can make its end look like a failed isolation.
    """
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        result, started = os.dup2(output, 200), os.dup2(started, 201)
        os.dup2(stdin if stdin is not None else null, 0)
        os.dup2(result if stdin is not None else null, 1)
        os.dup2(null, 2)
        os.dup2(result, 3)
        os.closerange(4, 201)
        sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
        isolate(layers, request["seconds"])
        os.write(started, STARTED)
        os.close(started)
        run_program(request, os.fdopen(3, "wb", closefd=False))
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - the status says it; the program's own errors are its own
        pass
    os._exit(status & 0xFF)


def _stream(descriptor: int, mode: str) -> Any:
    return os.fdopen(descriptor, mode, encoding="utf-8", closefd=False)


# ---- in the guardian -----------------------------------------------------------------------------


def become_guardian(
    request: dict[str, Any],
    stdin: int | None,
    output: int,
    started: int,
    layers: dict[str, bool],
    folder: str,
) -> NoReturn:
    """Take the process and mount namespaces, fork the program in them, end as it ends. Never returns."""
    status = 1
    try:
        os.setsid()
        isolation.die_with_parent()
        if layers.get("process_namespace"):
            isolation.enter_process_namespace()
        if layers.get("private_folder"):
            isolation.private_folder(FOLDER_SIZE)
        os.chdir(folder)
        tempfile.tempdir = folder
        program = os.fork()
        if program == 0:
            become_program(request, stdin, output, started, layers)
        os.close(output)
        os.close(started)
        status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    finally:
        os._exit(status & 0xFF)


# ---- in the zygote -------------------------------------------------------------------------------


def run(request: dict[str, Any], layers: dict[str, bool]) -> tuple[dict[str, Any], bytes]:
    """One program from fork to reaping; (header, output)."""
    request["nonce"] = os.urandom(16).hex()
    private = layers.get("private_folder", False)
    folder = isolation.FOLDER if private else tempfile.mkdtemp(prefix="r1-sandbox-")
    stdin = _input_file(request["stdin"]) if "stdin" in request else None
    (output_end, output), (started_end, started) = os.pipe(), os.pipe()
    guardian = os.fork()
    if guardian == 0:
        os.close(output_end)
        os.close(started_end)
        become_guardian(request, stdin, output, started, layers, folder)
    for descriptor in filter(None, (output, started, stdin)):
        os.close(descriptor)
    outcome, printed, status = "not started", b"", None
    if _has_started(started_end):
        outcome, printed, status = collect(guardian, output_end, time.monotonic() + request["seconds"])
    else:
        end_everything(guardian)
    os.close(output_end)
    os.close(started_end)
    if not private:
        shutil.rmtree(folder, ignore_errors=True)
    return {"outcome": outcome, "status": status, "nonce": request["nonce"]}, printed


def _has_started(started_end: int) -> bool:
    """Wait until the program's process is isolated; False where it ended before or took too long."""
    poll = select.poll()
    poll.register(started_end, select.POLLIN)
    return bool(poll.poll(START_SECONDS * 1000)) and os.read(started_end, 1) == STARTED


def collect(guardian: int, output_end: int, deadline: float) -> tuple[str, bytes, int | None]:
    """Read until the pipe closes, the output is too long or the time is up; then leave nothing running."""
    output, outcome = bytearray(), "deadline"
    poll = select.poll()
    poll.register(output_end, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
        part = os.read(output_end, 65536)
        output += part
        if not part or len(output) > MAX_OUTPUT:
            outcome = "output" if part else "ended"
            break
    status = _status(guardian, deadline) if outcome == "ended" else None
    if status is None:
        outcome = "deadline" if outcome == "ended" else outcome
        end_everything(guardian)
    else:
        end_everything()
    return outcome, bytes(output[:MAX_OUTPUT]), status


def _status(guardian: int, deadline: float) -> int | None:
    """The guardian's exit status, or None at the deadline."""
    pause = 0.0002
    while True:
        pid, status = os.waitpid(guardian, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def end_everything(guardian: int | None = None) -> None:
    """Kill and reap every descendant; orphans come to this process, which is a subreaper."""
    if guardian is not None:
        _kill(-guardian)
        _kill(guardian)
    while True:
        for child in _children():
            _kill(child)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(0.0005)


CHILDREN: int | None = None
"""The kernel's list of this process's children. Opened while there is a /proc."""


def _open_children() -> int | None:
    try:
        return os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return None


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _children() -> list[int]:
    if CHILDREN is None:
        return []
    os.lseek(CHILDREN, 0, os.SEEK_SET)
    return [int(word) for word in os.read(CHILDREN, 65536).split()]


def _input_file(text: str) -> int:
    """Hold the input in memory. The program gets this descriptor, so nothing more can be written to it."""
    file = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(file, "wb", closefd=False) as writer:
        writer.write(text.encode(errors="replace"))
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    return file


# ---- what holds on this machine ------------------------------------------------------------------


def raise_walls() -> dict[str, bool]:
    """Try every layer, the zygote's own for good, the others in a child that is thrown away."""
    layers = {"separate_process_group": True, "resource_limits": True, "empty_environment": not os.environ}
    layers |= isolation.leave_machine(readable(), [os.path.dirname(os.__file__)])
    isolation.adopt_orphans()
    layers["process_namespace"] = isolation.holds_in_a_child(isolation.enter_process_namespace)
    layers["private_folder"] = isolation.holds_in_a_child(lambda: isolation.private_folder(FOLDER_SIZE))
    return layers | {name: isolation.holds_in_a_child(wall) for name, wall in process_walls().items()}


def serve(requests: BinaryIO, replies: BinaryIO, layers: dict[str, bool]) -> None:
    while len(head := requests.read(4)) == 4:
        request = json.loads(requests.read(struct.unpack(">I", head)[0]))
        header, output = (layers, b"") if "layers" in request else run(request, layers)
        reply = json.dumps(header).encode() + b"\n" + output
        replies.write(struct.pack(">I", len(reply)) + reply)
        replies.flush()


def main() -> None:
    global CHILDREN
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    for name in PREIMPORTED:
        __import__(name)
    requests = io.BufferedReader(io.FileIO(os.dup(0)))
    replies = io.BufferedWriter(io.FileIO(os.dup(1), "w"))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.chdir("/")
    CHILDREN = _open_children()
    layers = raise_walls()
    gc.freeze()
    serve(requests, replies, layers)
