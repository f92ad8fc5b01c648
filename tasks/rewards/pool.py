"""The killable pool: every answer that needs more than a string comparison is judged in another process.

`VerifierPool.verify` may be called from any thread, also from several at once. Processes start when they
are first needed and are replaced when they are killed; an item whose process was lost is tried once more
in a new one, so that a worker that dies for reasons of its own loses no row.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from tasks.rewards.code_rules import judge_code
from tasks.rewards.process import Peer, PeerDied, PeerTimeout
from tasks.rewards.rules import Deferred, judge_or_defer
from tasks.rewards.sandbox import Sandbox, SandboxError
from tasks.rewards.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from tasks.problem import Problem

Reply = tuple[Verdict, str]

_LOAD = 120.0
"""Seconds that a worker may take to start and import a verifier's library."""
_GRACE = 2.0
"""Seconds beyond an item's time after which a worker that has not ended it itself is killed."""
_REMEMBERED = 20_000
"""Judged (gold, answer) pairs kept; a group's samples often give the same answer."""
_ATTEMPTS = 2


class VerifierPool:
    """Judges completions by rule. Use it as a context manager: leaving it ends its processes."""

    def __init__(
        self, workers: int = 2, seconds_per_item: float = 1.9, partial_credit: bool = False,
        allow_weak_sandbox: bool = False,
    ) -> None:  # fmt: skip
        """`partial_credit`: run every case of a code problem, so that judgements carry the share that passed.

        `allow_weak_sandbox`: run programs even where the kernel lacks a layer that the sandbox needs.
        """
        if workers < 1 or seconds_per_item <= 0:
            raise ValueError("VerifierPool needs at least one worker and a positive time per item")
        self._seconds, self._partial_credit = seconds_per_item, partial_credit
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="verify")
        self._workers: _Shelf[Worker] = _Shelf(Worker, workers)
        self._sandboxes: _Shelf[Sandbox] = _Shelf(lambda: Sandbox(allow_weak_sandbox), workers)
        self._remembered: dict[tuple[str, str, str], Judgement] = {}

    def verify(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Judgement | None]:
        """One judgement a row, in order; None where no rule applies to the problem.

        Raises:
            ValueError: the lengths differ.
        WeakSandboxError: there is code to run and this kernel cannot isolate it.
        """
        rows = [judge_or_defer(p, c) for p, c in zip(problems, completions, strict=True)]
        deferred = {key: row for row in rows if isinstance(row, Deferred) and (key := _key(row))}
        judged = dict(zip(deferred, self._threads.map(self._judge, deferred, deferred.values()), strict=True))
        return [judged[_key(row)] if isinstance(row, Deferred) else row for row in rows]

    def close(self) -> None:
        """Wait for running items and end all processes. Safe to call twice."""
        self._threads.shutdown(cancel_futures=True)
        self._workers.close()
        self._sandboxes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def process_ids(self) -> list[int]:
        """The idle processes of the pool."""
        return [process.pid for shelf in (self._workers, self._sandboxes) for process in shelf.idle]

    def _judge(self, key: tuple[str, str, str], row: Deferred) -> Judgement:
        if known := self._remembered.get(key):
            return known
        judgement = self._attempts(row)
        if judgement.verdict not in (Verdict.timeout, Verdict.error) and len(self._remembered) < _REMEMBERED:
            self._remembered[key] = judgement
        return judgement

    def _attempts(self, row: Deferred) -> Judgement:
        lost = ""
        for attempt in range(_ATTEMPTS):
            try:
                if row.operation == "code":
                    return self._run_code(row, fresh=attempt > 0)
                return self._run_worker(row, fresh=attempt > 0)
            except (PeerDied, PeerTimeout) as loss:
                lost = str(loss)
            except SandboxError as failure:
                return Judgement(Verdict.error, row.extracted, str(failure))
        detail = f"lost {_ATTEMPTS} {row.operation} processes on this answer: {lost}"
        return Judgement(Verdict.error, row.extracted, detail)

    def _run_worker(self, row: Deferred, fresh: bool) -> Judgement:
        with self._workers.borrow(fresh) as worker:
            worker.load(row.operation)
            try:
                verdict, detail = worker.judge(row.operation, row.arguments, self._seconds)
            except PeerTimeout:
                verdict, detail = Verdict.timeout, f"not decided in {self._seconds:g} s"
        return Judgement(verdict, row.extracted, detail)

    def _run_code(self, row: Deferred, fresh: bool) -> Judgement:
        with self._sandboxes.borrow(fresh) as sandbox:
            graded = judge_code(sandbox, row.extracted, row.arguments, self._seconds, self._partial_credit)
        share = graded.share if self._partial_credit else None
        return Judgement(graded.verdict, row.extracted, graded.detail, share)


class Worker:
    """One `tasks.rewards.worker` process."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._peer = Peer([sys.executable, "-m", "tasks.rewards.worker"], environment)
        self._loaded: set[str] = set()

    @property
    def pid(self) -> int:
        return self._peer.pid

    @property
    def alive(self) -> bool:
        return self._peer.alive

    def load(self, operation: str) -> None:
        """Import what `operation` needs, outside any item's time."""
        if operation not in self._loaded:
            verdict, detail = self._call("load", {"verifier": operation}, _LOAD)
            if verdict == Verdict.error:
                raise RuntimeError(f"the {operation} verifier does not load: {detail}")
            self._loaded.add(operation)

    def judge(self, operation: str, arguments: dict[str, Any], seconds: float) -> Reply:
        """The verdict, within `seconds`; `PeerTimeout` where the worker's own alarm fails."""
        return self._call(operation, arguments, seconds, _GRACE)

    def close(self) -> None:
        self._peer.close()

    def _call(self, operation: str, arguments: dict[str, Any], seconds: float, grace: float = 0.0) -> Reply:
        request = {"operation": operation, "arguments": arguments, "seconds": seconds}
        reply = json.loads(self._peer.call(json.dumps(request).encode(), seconds + grace))
        return Verdict(reply["verdict"]), reply["detail"]


class _Process(Protocol):
    @property
    def pid(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    def close(self) -> None: ...


P = TypeVar("P", bound=_Process)


class _Shelf(Generic[P]):
    """At most `size` idle processes of one kind; a borrowed one comes back only while it lives."""

    def __init__(self, make: Callable[[], P], size: int) -> None:
        self._make, self._size = make, size
        self._lock = threading.Lock()
        self.idle: list[P] = []

    @contextmanager
    def borrow(self, fresh: bool) -> Iterator[P]:
        """An idle process or a new one; always a new one where `fresh`."""
        process = self._make() if fresh else self._take() or self._make()
        try:
            yield process
        finally:
            if not self._put_back(process):
                process.close()

    def _take(self) -> P | None:
        with self._lock:
            while self.idle:
                process = self.idle.pop()
                if process.alive:
                    return process
                process.close()
        return None

    def _put_back(self, process: P) -> bool:
        with self._lock:
            kept = process.alive and len(self.idle) < self._size
            if kept:
                self.idle.append(process)
        return kept

    def close(self) -> None:
        with self._lock:
            processes, self.idle = self.idle, []
        for process in processes:
            process.close()


def _key(row: Deferred) -> tuple[str, str, str]:
    return row.operation, row.extracted, json.dumps(row.arguments, sort_keys=True, default=str)
