r"""The processes in which untrusted answers meet sympy and reasoning-gym: `python -m tasks.rewards.worker`.

A keeper imports the libraries (never torch) and forks judges, which are warm at once. Model text and stored
problems pass through the keeper as bytes that it does not look into. A judge is isolated with the layers of
`tasks.sandbox` before it reads its first request. It has no descriptor but the two pipes to its
keeper, which kills it when the item's time is up.

    frame to the keeper     a JSON line {"operation", ...} that the pool wrote, then the arguments as JSON
    frame from the keeper   one of the letters of `tasks.rewards.judging`, then the judge's reply or a reason

A judge of a verifier that is `LASTING` serves up to `ITEMS` requests. Every other request gets a judge of its
own. The keeper sends a fresh nonce with each request,
and takes one frame of limited size that begins with it; a judge that writes anything else is replaced.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import struct
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from tasks.rewards import judging
from tasks.rewards.judging import DONE, FAILED, LOST, REPLIED, TIMED_OUT
from tasks.rewards.verifier import verifiers
from tasks.sandbox import isolation
from tasks.supervise.peers import Channel, PeerDied, PeerTimeout

MEMORY = 512 * 2**20
"""Bytes of private memory for one process; sympy with its parser takes a fifth of it."""
ITEMS = 5_000
"""A judge is replaced after so many, because sympy's caches grow."""
MOST_REPLY = 2**20
"""Bytes; only rewritten unit tests come near it."""
_ENVIRONMENT = {
    *("PATH", "LANG", "LC_CTYPE", "PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
}
"""Variables that the pool sets for a keeper (LC_CTYPE is Python's own); none holds a secret."""
_REPOSITORY = str(Path(__file__).parents[2])
_DEVICES = ("/dev/null", "/dev/urandom")
_SCRATCH_SIZE = 16 * 2**20
_NONCE = 16
_READY = b"ready"
_START = 30.0
"""Seconds that the isolation of a judge may take."""
_HOUR = 3_600
"""CPU seconds of a judge that serves many requests; the keeper limits each request's time."""


# ---- in the judge --------------------------------------------------------------------------------


def become_judge(requests: int, replies: int, layers: dict[str, bool], seconds: float | None) -> NoReturn:
    """Give up all rights and descriptors but the two pipes, then serve one request of `seconds` or many.

    Never returns.
    """
    try:
        os.setsid()
        isolation.die_with_parent()
        requests, replies = os.dup2(requests, 200), os.dup2(replies, 201)
        null = os.open(os.devnull, os.O_RDWR)
        for target, source in ((0, null), (1, null), (2, null), (3, requests), (4, replies)):
            os.dup2(source, target)
        os.closerange(5, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        isolation.limit_resources(seconds or _HOUR, MEMORY, 0, processes=0, kind=resource.RLIMIT_DATA)
        for name, wall in judge_walls().items():
            if layers.get(name):
                wall()
        serve(3, 4, 1 if seconds else ITEMS)
    finally:
        os._exit(1)


def judge_walls() -> dict[str, Callable[[], None]]:
    """Return the layers that a judge takes for itself; its keeper has taken the others."""
    return {
        "capabilities_dropped": isolation.drop_capabilities,
        "file_rules": lambda: isolation.confine_files([*_libraries(), "/dev/urandom"], []),
        "system_call_filter": isolation.allow_system_calls,
    }


def serve(requests: int, replies: int, most: int) -> None:
    """Answer `most` frames, or fewer if the input ends or an answer has used up the memory."""
    _write(replies, _READY)
    for _ in range(most):
        request = _read(requests)
        nonce, (operation, _, arguments) = request[:_NONCE], request[_NONCE:].partition(b"\n")
        reply = judging.answer_request(operation.decode(), json.loads(arguments))
        _write(replies, nonce + json.dumps(reply).encode())
        if reply.get("detail") == judging.OUT_OF_MEMORY:
            break
    os.close(replies)  # the keeper sees it sooner than the end of the process, which frees its memory first


def _read(descriptor: int) -> bytes:
    """Return the next frame. Raises EOFError at the end of the input."""
    size, parts = 4, bytearray()
    while len(parts) < size:
        if not (part := os.read(descriptor, size - len(parts))):
            raise EOFError
        parts += part
        if len(parts) == 4 and size == 4:
            size += struct.unpack(">I", parts)[0]
    return bytes(parts[4:])


def _write(descriptor: int, message: bytes) -> None:
    view = memoryview(struct.pack(">I", len(message)) + message)
    while view:
        view = view[os.write(descriptor, view) :]


# ---- in the keeper -------------------------------------------------------------------------------


class Judge:
    """One isolated process and the two pipes to it. Raises PeerTimeout and PeerDied in all methods."""

    def __init__(self, layers: dict[str, bool], seconds: float | None) -> None:
        """Fork it for one request that may take `seconds`, or for many (None)."""
        (request_end, to), (source, reply_end) = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            become_judge(request_end, reply_end, layers, seconds)
        os.close(request_end)
        os.close(reply_end)
        self._channel = Channel(to, source)
        self._only_once, self._served = seconds is not None, 0

    def wait_until_isolated(self) -> None:
        if self._channel.receive(time.monotonic() + _START, len(_READY)) != _READY:
            raise PeerDied("it did not say that it is isolated")

    def ask(self, operation: str, arguments: bytes, seconds: float) -> bytes:
        """Return its reply to a request, which must be all that it writes."""
        nonce, deadline = os.urandom(_NONCE), time.monotonic() + seconds
        self._served += 1
        self._channel.send(nonce + operation.encode() + b"\n" + arguments, deadline)
        reply = self._channel.receive(deadline, MOST_REPLY)
        if not reply.startswith(nonce):
            raise PeerDied("it wrote something else than a reply")
        if self._only_once and not self._channel.has_ended(deadline):
            raise PeerDied("it wrote more than a reply")
        return reply[_NONCE:]

    @property
    def can_go_on(self) -> bool:
        """False once it has ended, has written what nobody asked for, or has served `ITEMS` requests."""
        return not self._only_once and self._served < ITEMS and self._channel.is_quiet()

    def end(self) -> None:
        """Kill its process group and reap it."""
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._channel.close()


class Keeper:
    """Forks judges and passes requests on to them, one at a time."""

    def __init__(self, layers: dict[str, bool]) -> None:
        self._layers = layers
        self._lasting: dict[str, Judge] = {}

    def answer(self, request: bytes) -> bytes:
        """Return the frame with which the pool's request is answered."""
        line, _, arguments = request.partition(b"\n")
        head = json.loads(line)
        match head["operation"]:
            case "layers":
                return DONE + json.dumps(self._layers).encode()
            case "load":
                return self._become_warmer(verifiers()[head["verifier"]].load)
            case "prepare":
                return self._become_warmer(lambda: verifiers()[head["verifier"]].prepare(head["what"]))
        return self._judged(head["operation"], arguments, head["seconds"])

    def close(self) -> None:
        for judge in self._lasting.values():
            judge.end()
        self._lasting.clear()

    def _become_warmer(self, work: Callable[[], None]) -> bytes:
        """Import or prepare something; judges forked from now on have it."""
        self.close()
        try:
            work()
        except Exception as failure:  # noqa: BLE001 - libraries raise anything; it is reported, not hidden
            return FAILED + f"{type(failure).__name__}: {failure}"[:300].encode()
        gc.collect()
        gc.freeze()
        return DONE

    def _judged(self, operation: str, arguments: bytes, seconds: float) -> bytes:
        try:
            judge = self._judge_for(operation, seconds)
        except (PeerDied, PeerTimeout) as failure:
            return FAILED + f"a judge could not be isolated: {failure}".encode()
        try:
            reply = judge.ask(operation, arguments, seconds)
        except (PeerDied, PeerTimeout) as loss:
            judge.end()
            return TIMED_OUT if isinstance(loss, PeerTimeout) else LOST + str(loss).encode()
        if judging.lasting(operation):
            self._lasting[operation] = judge
        else:
            judge.end()
        return REPLIED + reply

    def _judge_for(self, operation: str, seconds: float) -> Judge:
        if judge := self._lasting.pop(operation, None):
            if judge.can_go_on:
                return judge
            judge.end()
        judge = Judge(self._layers, None if judging.lasting(operation) else seconds)
        try:
            judge.wait_until_isolated()
        except (PeerDied, PeerTimeout):
            judge.end()
            raise
        return judge


def raise_walls(environment: set[str]) -> dict[str, bool]:
    """Take the keeper's own layers for good, and try a judge's in a child that is thrown away."""
    layers = {"separate_process_group": True, "resource_limits": True}
    layers["empty_environment"] = environment <= _ENVIRONMENT
    libraries = [*_libraries(), _REPOSITORY]
    importable = filter(os.path.isabs, sys.path)
    layers |= isolation.leave_machine([*libraries, *importable, *_DEVICES], libraries)
    if layers["own_root"]:  # it is read-only, and matplotlib is not imported without a temporary folder
        isolation.private_folder(_SCRATCH_SIZE, isolation.SCRATCH)
        os.chdir(isolation.SCRATCH)  # `tempfile` tries the current folder last
    return layers | {name: isolation.holds_in_a_child(wall) for name, wall in judge_walls().items()}


def _libraries() -> list[str]:
    """Folders with Python's library and the installed packages; some are imported only when needed."""
    paths = sysconfig.get_paths()
    python = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    system = {"/lib", "/lib64", "/usr/lib", "/usr/lib64", os.path.join(sys.base_prefix, "lib")}
    return sorted(filter(os.path.isdir, python | system))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what libraries print must not mix with the replies
    os.chdir("/")
    logging.disable(logging.WARNING)
    keeper = Keeper(raise_walls(set(os.environ)))
    with suppress(EOFError):
        while True:
            _write(replies, keeper.answer(_read(requests)))
    keeper.close()


if __name__ == "__main__":
    main()
