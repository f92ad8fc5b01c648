"""Jobs: the processes that do a stage's work.  `python -m tasks.job SPEC.json`

A job builds one or more artifacts, one after another, in a process group of its own. It holds the
key's lease while it builds, writes its log, a heartbeat and a progress record into a work folder that
belongs to the key (so a retry resumes there), and ends with an exit record. The flow that started it
trusts those files, not a run's state.

    WORKROOT/<key>/          one folder per cache key, kept until the artifact is published
        progress.json        Progress, replaced atomically
        metrics.jsonl        what `log` noted; only for who watches the job while it runs
        state/               the stage's own: trainer checkpoints, finished sampling shards
        draft/               what becomes the artifact
    WORKROOT/jobs/<id>/      one folder per process: spec.json, log.txt, heartbeat, exit.json

This module is what a stage sees. `spec` is what a job is asked to do, `build` makes its artifacts, and
`__main__` is the command.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.refs import Ref
from tasks.supervise.records import open_private, read_json, write_json

if TYPE_CHECKING:
    import pyarrow as pa


LOG = "metrics.jsonl"
LOST = 4
"""Exit code of a job that lost a service it depends on."""


class StopRequested(Exception):
    """The job was asked to stop (SIGTERM or an orphaned parent); raised after a checkpoint was written."""


class ServiceLost(Exception):
    """Something outside that the job depends on is gone (a vLLM server); started again, the job resumes."""


@dataclass(frozen=True)
class Input:
    """An input artifact, verified, on this machine's disk."""

    ref: Ref
    path: Path

    def table(self, name: str) -> pa.Table:
        """A Parquet file (or folder of shards) of the artifact, e.g. `table("problems")`.

        Raises:
            FileNotFoundError: the artifact holds no such table.
        """
        from artifacts.tables import read_table

        for place in (self.path / f"{name}.parquet", self.path / name):
            if place.exists():
                return read_table(place)
        raise FileNotFoundError(f"{self.ref.kind} {self.ref.short} holds no table {name!r} (in {self.path})")


@dataclass(frozen=True)
class Progress:
    """How far one build is; `total` 0 while unknown."""

    node: str
    done: int
    total: int
    message: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    at: float = 0.0
    """Seconds since the epoch."""

    @classmethod
    def read(cls, folder: Path) -> Progress | None:
        """The record in the work folder of a key; None before the first one."""
        document = read_json(folder / "progress.json")
        return None if document is None else cls(**document)


@dataclass(frozen=True)
class Job:
    """What a stage's `run(config, job)` may use."""

    node: str
    """Name in the graph, e.g. `r1-zero`."""
    stage: str
    inputs: Mapping[str, Input]
    folder: Path
    """The work folder of this cache key."""
    stop: threading.Event = field(default_factory=threading.Event)
    headline: dict[str, float | int | str] = field(default_factory=dict)
    """What `summary` gathered."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What the builds of one process share, by name; each has a `close`, called after the last build."""

    @property
    def state(self) -> Path:
        """Survives a kill; private to this cache key. Put checkpoints and finished shards here."""
        return self.folder / "state"

    @property
    def draft(self) -> Path:
        """Empty when `run` starts. What lies here when it returns becomes the artifact."""
        return self.folder / "draft"

    @property
    def work_root(self) -> Path:
        return self.folder.parent

    def progress(self, done: int, total: int, message: str = "", **metrics: float) -> None:
        """Say how far the job is; cheap, call it every step."""
        record = Progress(self.node, done, total, message, metrics, time.time())
        write_json(self.folder / "progress.json", asdict(record))

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Note rows of a `metrics` table (step, name, value) as they come. A step that is made again after a
        kill is noted again: its last value counts."""
        with open_private(self.folder / LOG, "a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    def seconds_spent(self) -> float:
        """At work on this key, earlier attempts included; a few seconds old."""
        return float((read_json(self.folder / "seconds.json") or {"seconds": 0.0})["seconds"])

    def should_stop(self) -> bool:
        """True once the job was asked to stop: write a checkpoint, then `raise StopRequested`."""
        return self.stop.is_set()

    def summary(self, **values: float | int | str) -> None:
        """Headline values that go into the manifest (e.g. `steps=60, reward=1.7`)."""
        self.headline.update(values)
