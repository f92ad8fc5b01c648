"""Leases: one builder per key, others wait.

On a local disk a lease is a `flock`: the kernel frees it when its holder dies, however it dies. In an
object store it is a numbered object that its holder rewrites every few seconds; whoever saw it unchanged
for `TTL_SECONDS` on its own clock (clocks are never compared) may create the next number, which only one
can. A holder that was suspended for longer loses its lease without notice: both then build, which costs
time, never correctness, because publishing is idempotent.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from artifacts.files import make_directory

WaitMessage = Callable[[str], None]
POLL_SECONDS = 0.1
TTL_SECONDS = 30.0
BEAT_SECONDS = 5.0

_held: set[int] = set()


def _close_in_child() -> None:
    """A forked child must not keep its parent's leases alive."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _holder() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def _describe(name: str, document: bytes) -> str:
    try:
        holder = json.loads(document)
        who = f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return f"waiting for {who}, which builds {name[:12]}"


@contextmanager
def file_lease(path: Path, wait_message: WaitMessage | None = None) -> Iterator[None]:
    """Hold the lock file at `path`; waits for its holder, saying so once."""
    make_directory(path.parent)
    descriptor = _lock(path, wait_message)
    _held.add(descriptor)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_holder()).encode(), 0)
        yield
    finally:
        if descriptor in _held:
            _held.discard(descriptor)
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _lock(path: Path, wait_message: WaitMessage | None) -> int:
    """A descriptor that holds the lock of the file which is at `path` now (not of one unlinked since)."""
    said = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if _try_lock(descriptor):
            if _is_at(descriptor, path):
                return descriptor
        elif wait_message and not said:
            said = True
            wait_message(_describe(path.stem, os.pread(descriptor, 4096, 0)))
        os.close(descriptor)
        time.sleep(POLL_SECONDS)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def file_is_held(path: Path) -> bool:
    """Whether somebody holds the lock file at `path`."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


class LeaseObjects(Protocol):
    """What a lease needs of an object store; paths are relative to the store."""

    def read(self, path: str) -> bytes | None: ...
    def write(self, path: str, data: bytes) -> None: ...
    def create(self, path: str, data: bytes) -> bool: ...
    def remove(self, path: str) -> None: ...
    def children(self, path: str) -> list[str]: ...


@contextmanager
def object_lease(
    store: LeaseObjects,
    folder: str,
    wait_message: WaitMessage | None = None,
    ttl: float = TTL_SECONDS,
    beat: float = BEAT_SECONDS,
) -> Iterator[None]:
    """Hold the lease whose generations are `folder/<number>`; the highest number is the lease."""
    number = _acquire(store, folder, wait_message, ttl, beat)
    path, holder, stop = f"{folder}/{number:08d}", _holder(), threading.Event()
    heart = threading.Thread(target=_beat, args=(store, path, holder, beat, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        store.write(path, b"{}")
        for old in store.children(folder):
            if int(old) < number:
                store.remove(f"{folder}/{old}")


def _acquire(
    store: LeaseObjects, folder: str, wait_message: WaitMessage | None, ttl: float, beat: float
) -> int:
    seen: tuple[int, bytes | None] = (-1, None)
    since, said = time.monotonic(), False
    while True:
        number = max(map(int, store.children(folder)), default=0)
        document = store.read(f"{folder}/{number:08d}") if number else b"{}"
        if (number, document) != seen:
            seen, since = (number, document), time.monotonic()
        if document == b"{}" or time.monotonic() - since > ttl:
            if store.create(f"{folder}/{number + 1:08d}", json.dumps(_holder()).encode()):
                return number + 1
        elif wait_message and not said:
            said = True
            wait_message(_describe(folder.rpartition("/")[2], document or b""))
        time.sleep(min(beat, 1.0))


def _beat(
    store: LeaseObjects, path: str, holder: dict[str, Any], seconds: float, stop: threading.Event
) -> None:
    while not stop.wait(seconds):
        document = holder | {"beat": uuid.uuid4().hex, "at": time.time()}
        store.write(path, json.dumps(document).encode())


def object_is_held(store: LeaseObjects, folder: str) -> bool:
    """Whether the lease was renewed within twice its lifetime, by the holder's clock."""
    number = max(map(int, store.children(folder)), default=0)
    document = store.read(f"{folder}/{number:08d}") if number else b"{}"
    if document is None or document == b"{}":
        return False
    fields = json.loads(document)
    at = fields.get("at") or datetime.fromisoformat(fields["since"]).timestamp()
    return bool(time.time() - at < 2 * TTL_SECONDS)
