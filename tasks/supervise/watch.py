"""What a supervised process runs beside its work: a thread that beats, and that hears requests to stop."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
"""How long a process that was asked to stop may take to write its checkpoint."""
_BEAT_SECONDS = 1.0


class Watch:
    """Sets `stop` on SIGTERM, on the parent's death, or when `asked` returns a reason.

    A thread does it, so that it works while native code holds the main thread. A process that has not
    ended `grace` seconds later is killed, with its whole group if it leads one. Enter it in the main thread.
    """

    def __init__(
        self, parent: int, asked: Callable[[], str] = lambda: "", grace: float = GRACE_SECONDS
    ) -> None:
        self.stop = threading.Event()
        self.reason = ""
        self._parent = parent
        self._asked = asked
        self._grace = grace
        self._lock = threading.Lock()
        self._actions: list[Callable[[], None]] = []
        self._done = threading.Event()
        self._deadline: float | None = None
        self._wakeup, self._signals = os.pipe()

    def __enter__(self) -> Watch:
        # Python runs signal handlers in the main thread between two byte codes, which a long native call
        # never reaches; the wake-up descriptor is written by the C handler at once.
        os.set_blocking(self._signals, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        os.write(self._signals, b"\0")
        self._thread.join()

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """Call `action` about once a second, in the thread, inside the `with` block."""
        with self._lock:
            self._actions.append(action)
        try:
            yield
        finally:
            with self._lock:
                self._actions.remove(action)

    def _run(self) -> None:
        while not self._done.is_set():
            self._act()
            self._notice()
            if self._deadline is not None and time.monotonic() > self._deadline:
                _end_group(f"{self.reason}; no checkpoint within {self._grace:.0f} s, ending")
            select.select([self._wakeup], [], [], _BEAT_SECONDS)

    def _act(self) -> None:
        with self._lock:
            for action in self._actions:
                try:
                    action()
                except OSError as error:  # a full disk must not end this thread: it also hears stops
                    log.warning("%s", error)

    def _notice(self) -> None:
        pending, _, _ = select.select([self._wakeup], [], [], 0)
        if pending and signal.SIGTERM in os.read(self._wakeup, 512):
            self.request("asked to stop (SIGTERM)")
        if os.getppid() != self._parent:
            self.request("the process that started this job is gone")
        if reason := self._asked():
            self.request(reason)

    def request(self, reason: str) -> None:
        """Ask for a stop at the next checkpoint; only the first reason counts."""
        if not self.stop.is_set():
            log.warning("%s: stopping at the next checkpoint", reason)
            self.reason = reason
            self._deadline = time.monotonic() + self._grace
            self.stop.set()


def _end_group(message: str) -> None:
    log.error(message)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
