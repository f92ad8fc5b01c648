"""The files by which a process tells another how it is doing; a reader never sees half of one."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal, Self

from pydantic import BaseModel, ConfigDict


def open_private(path: Path, mode: str) -> IO[Any]:
    """`open` where a file that is created is readable by its user alone, whatever the umask."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Replace `path` atomically, readable by its user alone.

    A reader sees the old or the new document, never a part.
    """
    # The thread is part of the name because a watch thread and its main thread may write the same record.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with open_private(temporary, "w") as file:
        file.write(json.dumps(document, ensure_ascii=False))
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The document, or None where none was written yet."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return document


class ExitRecord(BaseModel):
    """How a process says that it ended; one without a record died."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["ok", "failed", "stopped"]
    reason: str = ""
    """One line."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None while the process runs, and for one that died."""
        document = read_json(path)
        return None if document is None else cls.model_validate(document)

    def write(self, path: Path) -> None:
        write_json(path, self.model_dump(mode="json"))


class Heartbeat:
    """A file that one process touches about once a second and another one watches."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = 0.0
        self._heard = time.monotonic()

    def beat(self) -> None:
        self._path.touch()

    def silence(self) -> float:
        """Seconds since the file was last seen to change, by this process's clock.

        The file's own time is only compared with itself: the clocks of a file server and of this machine
        may differ, and the wall clock may be set.
        """
        try:
            beat = self._path.stat().st_mtime
        except FileNotFoundError:
            beat = 0.0
        if beat != self._seen:
            self._seen, self._heard = beat, time.monotonic()
        return time.monotonic() - self._heard
