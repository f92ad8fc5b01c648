"""Leases: one builder per key, others wait.

On a local disk a lease is a `flock`: the kernel frees it when its holder dies, however it dies. In an
object store it is a numbered object that its holder rewrites every few seconds; whoever saw it unchanged
for `TTL_SECONDS` on its own clock (clocks are never compared) may create the next number, which only one
can. A holder notices that (`Lease.lost`): it looks for a higher number before each write, and counts a lease
that it could not renew for `TTL_SECONDS` as lost. It asks again before it publishes (`Lease.check`).
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from artifacts.checks import MAX_TEXT, printable
from artifacts.errors import CorruptArtifact, LeaseLost, StoreUnavailable

log = logging.getLogger(__name__)

WaitMessage = Callable[[str], None]
POLL_SECONDS = 0.1
TTL_SECONDS = 30.0
BEAT_SECONDS = 5.0

_held: set[int] = set()


class Lease:
    """A lease that its holder keeps until it gives it back or dies: that of a `flock`."""

    lost: str = ""
    """Why the holder has it no longer; empty while it has."""

    def check(self) -> None:
        """Raise LeaseLost where somebody else may build by now."""
        if self.lost:
            raise LeaseLost(self.lost)


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
        who = printable(f"process {holder['pid']} on {holder['host']} (since {holder['since']})")[:MAX_TEXT]
    except (ValueError, KeyError, TypeError, RecursionError):
        who = "another process"
    return f"waiting for {who}, which builds {name[:12]}"


# Not the package filelock (4.3): it takes a path, so it follows a link in the place of `leases/`, and it
# leaves a lock file behind for each key. test_hostile_store.py and test_leases.py would show both.
@contextmanager
def file_lease(
    folder: int, name: str, wait_message: WaitMessage | None = None, mode: int = 0o600
) -> Iterator[Lease]:
    """Hold the lock file `name` in the folder with that descriptor; waits for its holder, saying so once."""
    descriptor = _lock(folder, name, wait_message, mode)
    _held.add(descriptor)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_holder()).encode(), 0)
        yield Lease()
    finally:
        if descriptor in _held:
            _held.discard(descriptor)
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            os.close(descriptor)


def _lock(folder: int, name: str, wait_message: WaitMessage | None, mode: int) -> int:
    """A descriptor that holds the lock of the file called `name` now (not of one unlinked since)."""
    said = False
    while True:
        descriptor = _open_lock(folder, name, os.O_CREAT, mode)
        if _try_lock(descriptor):
            if _is_at(descriptor, folder, name):
                return descriptor
        elif wait_message and not said:
            said = True
            wait_message(_describe(name.removesuffix(".lock"), os.pread(descriptor, 4096, 0)))
        os.close(descriptor)
        time.sleep(POLL_SECONDS)


def _open_lock(folder: int, name: str, flags: int = 0, mode: int = 0o600) -> int:
    """Open a lock file, and never something else that its truncation would destroy.

    Raises:
        CorruptArtifact: a link, a FIFO or another name of some file stands in its place.
    """
    flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, mode, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CorruptArtifact(f"the lock {name} in leases/ cannot be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise CorruptArtifact(f"the lock {name} in leases/ is not a file of its own")
    if flags & os.O_CREAT and status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(descriptor, mode)  # the umask took from it
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, folder: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def file_is_held(folder: int, name: str) -> bool:
    """Whether somebody holds the lock file `name`; what is not a lock file nobody holds."""
    try:
        descriptor = _open_lock(folder, name)
    except (FileNotFoundError, CorruptArtifact):
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
) -> Iterator[Lease]:
    """Hold the lease whose generations are `folder/<number>`; the highest number is the lease."""
    number = _acquire(store, folder, wait_message, ttl, beat)
    lease, stop = _ObjectLease(store, folder, number, ttl), threading.Event()
    heart = threading.Thread(target=_beat, args=(lease, beat, stop), daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        stop.set()
        heart.join()
        if not lease.lost:
            lease.give_back()


@dataclass
class _ObjectLease(Lease):
    store: LeaseObjects
    folder: str
    number: int
    ttl: float
    _document: dict[str, str | int] = field(default_factory=_holder)
    _renewed: float = field(default_factory=time.monotonic)
    """When the last write that succeeded began: nobody saw the object unchanged for longer."""

    def check(self) -> None:
        self.renew()
        super().check()

    def renew(self) -> None:
        """Rewrite the object unless somebody has taken over; a failed write counts only after `ttl`."""
        begun = time.monotonic()
        try:
            if not self.lost and max(_generations(self.store, self.folder), default=0) > self.number:
                self.lost = f"another builder took over {self._name}, as this one was silent for too long"
            if not self.lost:
                document = self._document | {"beat": uuid.uuid4().hex, "at": time.time()}
                self.store.write(self._path, json.dumps(document).encode())
                self._renewed = begun
        except Exception as error:  # noqa: BLE001 - file systems raise anything, and the heart must go on
            log.warning("the lease of %s was not renewed: %s", self._name, error)
            if time.monotonic() - self._renewed > self.ttl:
                self.lost = f"the lease of {self._name} could not be renewed for {self.ttl:.0f} s ({error})"

    def give_back(self) -> None:
        """Free the lease for the next builder. Where that fails it expires by itself."""
        try:
            self.store.write(self._path, b"{}")
            for old in _generations(self.store, self.folder):
                if old < self.number:
                    self.store.remove(f"{self.folder}/{old:08d}")
        except Exception as error:  # noqa: BLE001 - as above; what was built must not be lost for this
            log.warning("the lease of %s was not given back: %s", self._name, error)

    @property
    def _path(self) -> str:
        return f"{self.folder}/{self.number:08d}"

    @property
    def _name(self) -> str:
        return self.folder.rpartition("/")[2][:12]


def _generations(store: LeaseObjects, folder: str) -> list[int]:
    """The numbers in a lease's folder; other names are none of ours."""
    return [int(name) for name in store.children(folder) if re.fullmatch("[0-9]{8}", name)]


def _acquire(
    store: LeaseObjects, folder: str, wait_message: WaitMessage | None, ttl: float, beat: float
) -> int:
    seen: tuple[int, bytes | None] = (-1, None)
    since, said = time.monotonic(), False
    answered: float | None = None
    while True:
        try:
            number = max(_generations(store, folder), default=0)
            document = store.read(f"{folder}/{number:08d}") if number else b"{}"
        except StoreUnavailable:
            if answered is None or time.monotonic() - answered > ttl:
                raise
            time.sleep(beat)  # whoever waits for hours must not end over one failed answer
            continue
        answered = time.monotonic()
        if (number, document) != seen:
            seen, since = (number, document), time.monotonic()
        if document == b"{}" or time.monotonic() - since > ttl:
            if store.create(f"{folder}/{number + 1:08d}", json.dumps(_holder()).encode()):
                return number + 1
        elif wait_message and not said:
            said = True
            wait_message(_describe(folder.rpartition("/")[2], document or b""))
        time.sleep(min(beat, 1.0))


def _beat(lease: _ObjectLease, seconds: float, stop: threading.Event) -> None:
    while not lease.lost and not stop.wait(seconds):
        lease.renew()


def object_is_held(store: LeaseObjects, folder: str) -> bool:
    """Whether the lease was renewed within twice its lifetime, by the holder's clock."""
    number = max(_generations(store, folder), default=0)
    document = store.read(f"{folder}/{number:08d}") if number else b"{}"
    if document is None or document == b"{}":
        return False
    try:
        fields = json.loads(document)
        at = float(fields.get("at") or datetime.fromisoformat(fields["since"]).timestamp())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False  # whatever it is, no holder of ours renews it
    return time.time() - at < 2 * TTL_SECONDS
