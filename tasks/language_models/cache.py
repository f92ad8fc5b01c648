"""Answers by the hash of their request, in a file that grows by a line an answer.

A kill loses at most the requests in flight, and a half line that a kill left behind is skipped. In memory are
only the hashes and where each answer stands, not the answers. Several jobs may append at once: a line is one
write of a file opened for appending.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from tasks.supervise.records import open_private


class AnswerCache:
    """One file of answers."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open_private(path, "ab+")
        self._places: dict[bytes, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._index()

    def get(self, key: str) -> dict[str, Any] | None:
        """What was put under `key`."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        offset, length = place
        answer: dict[str, Any] = json.loads(os.pread(self._file.fileno(), length, offset))["answer"]
        return answer

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """Keep an answer; it is on its way to the disk when this returns."""
        line = json.dumps({"request": key, "answer": answer}).encode() + b"\n"
        with self._lock:
            written = os.write(self._file.fileno(), line)
            if written != len(line):  # the disk is full: the half line is skipped by whoever reads it
                raise OSError(f"only {written} of {len(line)} bytes of an answer were written")
            end = os.lseek(self._file.fileno(), 0, os.SEEK_CUR)
            self._places[bytes.fromhex(key)] = end - len(line), len(line)

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def _index(self) -> None:
        self._file.seek(0)
        offset, line = 0, b"\n"
        for line in self._file:
            try:
                key = bytes.fromhex(json.loads(line)["request"])
                self._places[key] = offset, len(line)
            except (ValueError, LookupError, TypeError):
                pass  # what a kill cut off
            offset += len(line)
        if not line.endswith(b"\n"):
            os.write(self._file.fileno(), b"\n")
