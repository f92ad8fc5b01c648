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
from collections.abc import Mapping, Sequence
from contextlib import suppress

MAX_FRAME = 64 * 2**20


class PeerTimeout(Exception):
    """No answer before the deadline; the process was killed."""


class PeerDied(Exception):
    """The process ended, or its pipe broke, before it answered."""


class Peer:
    """One child process. `call` sends a frame and waits for one."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            argv, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        self._killed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once it was killed or has ended; its children may die a moment before it does."""
        return not self._killed and self._process.poll() is None

    def call(self, message: bytes, seconds: float) -> bytes:
        """The answer to `message`.

        Raises:
            PeerTimeout: none came within `seconds`.
            PeerDied: none will come.
        """
        deadline = time.monotonic() + seconds
        try:
            self._write(struct.pack(">I", len(message)) + message, deadline)
            (length,) = struct.unpack(">I", self._read(4, deadline))
            if length > MAX_FRAME:
                raise PeerDied(f"an answer of {length} bytes")
            return self._read(length, deadline)
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

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            _wait(self._to, select.POLLOUT, deadline)
            try:
                view = view[os.write(self._to, view) :]
            except BrokenPipeError as broken:
                raise PeerDied("the process ended") from broken

    def _read(self, size: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            _wait(self._from, select.POLLIN, deadline)
            part = os.read(self._from, min(size - len(parts), 2**20))
            if not part:
                raise PeerDied("the process ended")
            parts += part
        return bytes(parts)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise PeerTimeout("no answer in time")
