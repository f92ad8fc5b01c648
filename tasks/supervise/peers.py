"""A child process that answers framed messages and can be killed at a deadline.

Frames are a four-byte big-endian length and that many bytes, both ways over pipes. One caller at a time.
The child stays in this process's group, sees the end of its input when this process dies, and ends then.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from tasks.supervise.trees import start_child

MAX_FRAME = 64 * 2**20
"""Bytes of the longest answer."""


class PeerTimeout(Exception):
    """No answer before the deadline; the process was killed."""


class PeerDied(Exception):
    """The process ended, or its pipe broke, before it answered."""


class Channel:
    """Two pipes to another process, over which frames go with a deadline."""

    def __init__(self, to: int, source: int) -> None:
        """Takes the descriptors to write to and to read from."""
        self._to, self._from = to, source
        os.set_blocking(to, False)

    def send(self, message: bytes, deadline: float) -> None:
        """Write a frame. Raises PeerTimeout or PeerDied."""
        view = memoryview(struct.pack(">I", len(message)) + message)
        while view:
            _wait(self._to, select.POLLOUT, deadline)
            try:
                view = view[os.write(self._to, view) :]
            except BrokenPipeError as broken:
                raise PeerDied("the process ended") from broken

    def receive(self, deadline: float, most: int = MAX_FRAME) -> bytes:
        """Read one frame of at most `most` bytes. Raises PeerTimeout or PeerDied."""
        (length,) = struct.unpack(">I", self._read(4, deadline))
        if length > most:
            raise PeerDied(f"an answer of {length} bytes")
        return self._read(length, deadline)

    def is_quiet(self) -> bool:
        """Tell whether there is nothing to read, not even the end of the stream."""
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        return not poll.poll(0)

    def has_ended(self, deadline: float) -> bool:
        """Wait for the other side to write or to close its end; tell whether it closed it."""
        _wait(self._from, select.POLLIN, deadline)
        return not os.read(self._from, 1)

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)

    def _read(self, size: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            _wait(self._from, select.POLLIN, deadline)
            part = os.read(self._from, min(size - len(parts), 2**20))
            if not part:
                raise PeerDied("the process ended")
            parts += part
        return bytes(parts)


class Peer:
    """One child process. `call` sends a frame and waits for one; `send` and `receive` are its halves."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = start_child(argv, environment, pipes=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._channel = Channel(self._process.stdin.fileno(), self._process.stdout.fileno())
        self._killed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once it was killed or has ended; its children may die a moment before it does."""
        return not self._killed and self._process.poll() is None

    def call(self, message: bytes, seconds: float, *more: bytes) -> bytes:
        """The answer to `message`, which `more` frames may follow.

        Raises:
            PeerTimeout: none came within `seconds`.
            PeerDied: none will come.
        """
        deadline = time.monotonic() + seconds
        with self._killed_by_failure():
            for part in (message, *more):
                self._channel.send(part, deadline)
            return self._channel.receive(deadline)

    def send(self, message: bytes, seconds: float) -> None:
        """A frame, for one that answers when it likes. Raises as `call`."""
        with self._killed_by_failure():
            self._channel.send(message, time.monotonic() + seconds)

    def receive(self, seconds: float) -> bytes:
        """The next frame. Raises as `call`."""
        with self._killed_by_failure():
            return self._channel.receive(time.monotonic() + seconds)

    @contextmanager
    def _killed_by_failure(self) -> Iterator[None]:
        try:
            yield
        except (PeerTimeout, PeerDied):
            self.kill()
            raise

    def kill(self) -> None:
        """End the process at once and reap it. Safe to call twice."""
        self._killed = True
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def close(self, seconds: float = 5.0) -> None:
        """Let an idle process end by itself (it cleans up), or kill it after `seconds`."""
        if self._process.stdin:
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise PeerTimeout("no answer in time")
