"""The process that model-written programs are forked from. Standard library only; never holds an answer.

Started by `tasks.sandbox` as `python -I -S` with an empty environment. It reads one request a
frame, forks a guardian (which takes the namespaces) and from it the program, collects at most
`MAX_OUTPUT` bytes from the pipe until the program ends or its time is up, kills what is left, and replies
with a JSON line and the raw bytes. It never interprets those bytes.

    request   {"program", "entry_point", "calls": [[argument, ...], ...], "seconds"}      function style
              {"program", "stdin", "seconds"}                                             stdin style
              {"program", "entry_point", "tolerance", "seconds"}, then the tests as a frame      unit tests
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
from typing import Any, BinaryIO, NoReturn, TextIO

# These lie beside this file, which runs as a script; mypy sees packages only.
import isolation  # type: ignore[import-not-found]
import testing  # type: ignore[import-not-found]
from objects import ObjectServer, find_function  # type: ignore[import-not-found]
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
            # Each value is copied before the next call, which may change it; a method gets a new instance.
            entry_point = request["entry_point"]
            values = [plain(find_function(module, entry_point)(*args)) for args in request["calls"]]
            body = json.dumps(values).encode()
            result.write(request["nonce"].encode() + struct.pack(">I", len(body)) + body)
    finally:
        result.flush()
        sys.stdout.flush()


def serve_program(request: dict[str, Any], requests: TextIO, replies: TextIO) -> None:
    """Run the program, then do what the tests ask of its objects."""
    module = types.ModuleType("answer")
    sys.modules[module.__name__] = module
    sys.path[:] = [path for path in sys.path if "python" in path]
    exec(compile(request["program"], "<answer>", "exec"), module.__dict__)
    ObjectServer(module, requests, replies).run()


def become_tested(request: dict[str, Any], source: int, target: int, layers: dict[str, bool]) -> NoReturn:
    """Isolate this process, say so on `target`, serve the program's objects. Never returns.

    Descriptors: 0 to 2 nothing, 3 the replies to the tests, 4 their requests.
    """
    try:
        null = os.open(os.devnull, os.O_RDWR)
        source, target = os.dup2(source, 200), os.dup2(target, 201)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.dup2(target, 3)
        os.dup2(source, 4)
        os.closerange(5, 202)
        sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
        isolate(layers, request["seconds"])
        os.write(3, STARTED)
        serve_program(request, _stream(4, "r"), _stream(3, "w"))
    except BaseException:  # noqa: BLE001 - the tests see the end of the pipe
        pass
    os._exit(1)


def become_tests(
    request: dict[str, Any], frames: int, source: int, target: int, output: int, started: int,
    layers: dict[str, bool],
) -> NoReturn:  # fmt: skip
    """Read the tests, isolate this process, run them against the program beside it. Never returns.

    `frames` is where requests to the zygote come from: the tests follow the request as a frame of their own,
    so that only this process ever holds them. It begins once the program's process is isolated too.
    """
    status = 1
    try:
        tests = read_frame(frames)
        null = os.open(os.devnull, os.O_RDWR)
        for number, descriptor in enumerate((source, target, output, started), 200):
            os.dup2(descriptor, number)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        for number in range(4):
            os.dup2(200 + number, 3 + number)
        os.closerange(7, 204)
        sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
        sys.path[:] = [path for path in sys.path if "python" in path]
        isolate(layers, request["seconds"])
        if os.read(3, 1) == STARTED:
            os.write(6, STARTED)
            os.close(6)
            nonce = request["nonce"].encode()
            pipes = _stream(4, "w"), _stream(3, "r")
            body = testing.run_tests(tests or b"", request, *pipes, lambda: os.write(5, nonce))
            with os.fdopen(5, "wb", closefd=False) as result:
                result.write(struct.pack(">I", len(body)) + body)
            status = 0
    except BaseException:  # noqa: BLE001 - the status says it
        pass
    os._exit(status)


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
    frames: int | None,
) -> NoReturn:
    """Take the process and mount namespaces, fork the program in them, end as it ends. Never returns.

    Unit tests (`frames` is given) have a process beside the program's, and the guardian ends as they end.
    """
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
        program = os.fork() if frames is None else fork_tests(request, frames, output, started, layers)
        if program == 0:
            become_program(request, stdin, output, started, layers)
        os.close(output)
        os.close(started)
        ended = 0
        while ended != program:  # process 1 of a namespace ends only when all others in it were reaped
            ended, code = os.waitpid(-1, 0)
        status = os.waitstatus_to_exitcode(code)
    finally:
        os._exit(status & 0xFF)


def fork_tests(
    request: dict[str, Any], frames: int, output: int, started: int, layers: dict[str, bool]
) -> int:
    """Fork the tests, then the program, with pipes between them; return the tests' process.

    The tests are process 1 of the namespace, where there is one: the program dies with them. The program has
    neither their output nor the descriptor that they read from.
    """
    (requests_end, requests), (replies_end, replies) = os.pipe(), os.pipe()
    tests = os.fork()
    if tests == 0:
        os.close(requests_end)
        os.close(replies)
        become_tests(request, frames, replies_end, requests, output, started, layers)
    program = os.fork()
    if program == 0:
        become_tested(request, requests_end, replies, layers)
    for descriptor in (requests_end, requests, replies_end, replies, frames):
        os.close(descriptor)
    return tests


# ---- in the zygote -------------------------------------------------------------------------------


def run(request: dict[str, Any], layers: dict[str, bool], frames: int) -> tuple[dict[str, Any], bytes]:
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
        tests = frames if "entry_point" in request and "calls" not in request else None
        become_guardian(request, stdin, output, started, layers, folder, tests)
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


def serve(requests: int, replies: BinaryIO, layers: dict[str, bool]) -> None:
    while (frame := read_frame(requests)) is not None:
        request = json.loads(frame)
        header, output = (layers, b"") if "layers" in request else run(request, layers, requests)
        reply = json.dumps(header).encode() + b"\n" + output
        replies.write(struct.pack(">I", len(reply)) + reply)
        replies.flush()


def read_frame(descriptor: int) -> bytes | None:
    """Read one frame and not a byte more, because the next one may be for another process."""
    parts = bytearray()
    size = 4
    while len(parts) < size:
        part = os.read(descriptor, min(size - len(parts), 2**20))
        if not part:
            return None
        parts += part
        if len(parts) == 4 and size == 4:
            size = 4 + struct.unpack(">I", parts)[0]
    return bytes(parts[4:])


def main() -> None:
    global CHILDREN
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    for name in PREIMPORTED:
        __import__(name)
    requests = os.dup(0)
    replies = io.BufferedWriter(io.FileIO(os.dup(1), "w"))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.chdir("/")
    CHILDREN = _open_children()
    layers = raise_walls()
    gc.freeze()
    serve(requests, replies, layers)
