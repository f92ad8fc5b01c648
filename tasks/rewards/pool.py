"""The killable pool: every answer that needs more than a string comparison is judged in another process.

`VerifierPool.verify` may be called from any thread, also from several at once. Processes start when they
are first needed and are replaced when they are killed; an item whose process was lost is tried once more
in a new one, so that a worker that dies for reasons of its own loses no row.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from tasks.rewards.judging import FAILED, REPLIED, TIMED_OUT
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rewards.verifier import (
    CheckFailed,
    Deferred,
    Reply,
    fault,
    judge_or_defer,
    one_line,
    verifiers,
)  # fmt: skip
from tasks.sandbox import Sandbox, SandboxError, require_layers
from tasks.supervise.peers import Peer, PeerDied, PeerTimeout

if TYPE_CHECKING:
    from tasks.problem import Problem

_LOAD = 120.0
"""Seconds that a worker may take to start and import a verifier's library."""
_GRACE = 2.0
"""Seconds beyond an item's time after which a worker that has not ended it itself is killed."""
REMEMBERED = 20_000
"""Judgements kept, the newest: a group's samples often give the same answer, and answers are judged ahead."""
_ATTEMPTS = 2
_ROW_FAULTS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What odd values in a row (any JSON) can raise. Failures of the machine and of our processes go on."""


class JudgeLost(Exception):
    """A judge ended, or wrote something else than a reply, while it had this answer."""


class VerifierPool:
    """Judges completions by rule. Use it as a context manager: leaving it ends its processes."""

    def __init__(
        self, workers: int | None = None, seconds_per_item: float = 1.9, partial_credit: bool = False,
        allow_weak_sandbox: bool = False,
    ) -> None:  # fmt: skip
        """`workers`: None for half of this machine's processors, from 2 to 8.

        `partial_credit`: run every case of a code problem, so that judgements carry the share that passed.

        `allow_weak_sandbox`: run programs and judges even where the kernel lacks a layer that they need.
        """
        if workers is None:
            workers = min(8, max(2, len(os.sched_getaffinity(0)) // 2))
        if workers < 1 or seconds_per_item <= 0:
            raise ValueError("VerifierPool needs at least one worker and a positive time per item")
        self._seconds, self._partial_credit = seconds_per_item, partial_credit
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="verify")
        self._workers = _IdleProcesses(lambda: Worker(allow_weak_sandbox), workers)
        self._sandboxes = _IdleProcesses(lambda: Sandbox(allow_weak_sandbox), workers)
        self._size = workers
        self._remembered: dict[tuple[str, str, str], Judgement] = {}
        self._remembering = threading.Lock()

    def warm(self, problems: Sequence[Problem]) -> None:
        """Start the processes that will judge answers to these problems; returns at once.

        Importing sympy or reasoning-gym takes seconds, in which a model can be loaded. What fails here fails
        again, and is told, when something is judged.
        """
        named = {p.verifier for p in problems}
        needed = sorted(name for name in named if hasattr(verifiers().get(name), "decide"))
        for _ in range(self._size if needed else 0):
            self._threads.submit(self._warm_worker, needed)

    def _warm_worker(self, needed: Sequence[str]) -> None:
        with self._workers.borrow(fresh=False) as worker:
            for verifier in needed:
                worker.load(verifier)

    def verify(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Judgement | None]:
        """One judgement a row, in order; None where no rule applies to the problem.

        A row that cannot be judged, whatever it holds, is an `error` with the problem's id and the reason.

        Raises:
            ValueError: the lengths differ.
            WeakSandboxError: this kernel cannot isolate a program or a judge that is needed.
        """
        rows = [_begin(problem, text) for problem, text in zip(problems, completions, strict=True)]
        deferred = {row.key: row.deferred for row in rows if isinstance(row, _Keyed)}
        judged = dict(zip(deferred, self._threads.map(self._judge, deferred, deferred.values()), strict=True))
        found = [judged[row.key] if isinstance(row, _Keyed) else row for row in rows]
        return [_with_id(problem, judgement) for problem, judgement in zip(problems, found, strict=True)]

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
        return [process.pid for kept in (self._workers, self._sandboxes) for process in kept.idle]

    def _judge(self, key: tuple[str, str, str], row: Deferred) -> Judgement:
        if known := self._remembered.get(key):
            return known
        judgement = self._attempts(row)
        if judgement.verdict not in (Verdict.timeout, Verdict.error):
            with self._remembering:
                self._remembered[key] = judgement
                if len(self._remembered) > REMEMBERED:
                    del self._remembered[next(iter(self._remembered))]
        return judgement

    def _attempts(self, row: Deferred) -> Judgement:
        verdict, lost, fresh = Verdict.error, "", False
        for _ in range(_ATTEMPTS):
            try:
                in_sandbox = hasattr(verifiers()[row.verifier], "run")
                return self._run_program(row, fresh) if in_sandbox else self._run_worker(row, fresh)
            except (PeerDied, PeerTimeout) as loss:
                verdict, lost, fresh = Verdict.error, str(loss), True
            except JudgeLost as loss:  # an answer that ends two judges is no fault of the checking
                verdict, lost = Verdict.wrong, str(loss)
            except (SandboxError, CheckFailed) as failure:
                return Judgement(Verdict.error, row.extracted, str(failure))
            except _ROW_FAULTS as failure:
                return Judgement(Verdict.error, row.extracted, one_line(failure))
        detail = f"lost {_ATTEMPTS} {row.verifier} processes on this answer: {lost}"
        return Judgement(verdict, row.extracted, detail)

    def _run_worker(self, row: Deferred, fresh: bool) -> Judgement:
        with self._workers.borrow(fresh) as worker:
            worker.load(row.verifier)
            if row.prepare:
                worker.prepare(row.verifier, row.prepare)
            try:
                verdict, detail = worker.judge(row.verifier, row.arguments, self._seconds)
            except PeerTimeout:
                verdict, detail = Verdict.timeout, f"not decided in {self._seconds:g} s"
        return Judgement(verdict, row.extracted, detail)

    def _run_program(self, row: Deferred, fresh: bool) -> Judgement:
        with self._sandboxes.borrow(fresh) as sandbox:
            bench = _Bench(sandbox, self._seconds, self._partial_credit)
            judgement: Judgement = verifiers()[row.verifier].run(bench, row)
        return judgement


@dataclass(frozen=True)
class _Bench:
    """`tasks.rewards.verifier.Bench`."""

    sandbox: Sandbox
    seconds: float
    every_case: bool


class Worker:
    """One `tasks.rewards.worker` process, the keeper of judges.

    Raises (all methods):
        PeerDied, PeerTimeout: it was lost; make a new one.
        JudgeLost: the judge was lost; the worker goes on.
        CheckFailed: no judge could be had for this problem.
    """

    def __init__(self, allow_weak: bool = False) -> None:
        """Raises WeakSandboxError where a needed layer is missing, unless `allow_weak`."""
        root = str(Path(__file__).parents[2])
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._peer = Peer([sys.executable, "-P", "-m", "tasks.rewards.worker"], environment)
        self._loaded: set[str] = set()
        self._prepared: dict[tuple[str, str], str] = {}
        try:
            self.layers: dict[str, bool] = json.loads(self._call({"operation": "layers"}, _LOAD)[1])
            what = ("answer checker", "leave out domains that need it", "answers and problem files")
            require_layers(self.layers, allow_weak, *what)
        except BaseException:
            self._peer.kill()
            raise

    @property
    def pid(self) -> int:
        return self._peer.pid

    @property
    def alive(self) -> bool:
        return self._peer.alive

    def load(self, operation: str) -> None:
        """Import what `operation` needs, outside any item's time."""
        if operation not in self._loaded:
            kind, detail = self._call({"operation": "load", "verifier": operation}, _LOAD)
            if kind == FAILED:
                raise RuntimeError(f"the {operation} verifier does not load: {detail.decode()}")
            self._loaded.add(operation)

    def prepare(self, verifier: str, what: str) -> None:
        """Read what one kind of problem needs, outside any item's time."""
        if (verifier, what) not in self._prepared:
            kind, detail = self._call({"operation": "prepare", "verifier": verifier, "what": what}, _LOAD)
            self._prepared[verifier, what] = detail.decode() if kind == FAILED else ""
        if fault := self._prepared[verifier, what]:
            raise CheckFailed(f"the verifier {verifier} cannot prepare for {what[:60]!r}: {fault}")

    def judge(self, operation: str, arguments: dict[str, Any], seconds: float) -> Reply:
        """The verdict, within `seconds`; `PeerTimeout` where the keeper's own limit fails."""
        reply = self._reply(operation, arguments, seconds)
        if reply is None:
            return Verdict.timeout, "not decided in time"
        if reply.keys() != {"verdict", "detail"} or reply["verdict"] not in list(Verdict):
            raise JudgeLost("it gave no verdict")
        return Verdict(reply["verdict"]), str(reply["detail"])[:1_000]

    def close(self) -> None:
        self._peer.close()

    def _reply(self, operation: str, arguments: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """What a judge replied; None where its time was up."""
        head = {"operation": operation, "seconds": seconds}
        kind, data = self._call(head, seconds + _GRACE, json.dumps(arguments).encode())
        if kind == TIMED_OUT:
            return None
        if kind == FAILED:
            raise CheckFailed(data.decode())
        try:
            reply = json.loads(data) if kind == REPLIED else None
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise JudgeLost(data.decode(errors="replace")[:200])
        return reply

    def _call(self, head: dict[str, Any], seconds: float, arguments: bytes = b"") -> tuple[bytes, bytes]:
        frame = self._peer.call(json.dumps(head).encode() + b"\n" + arguments, seconds)
        return frame[:1], frame[1:]


class _Process(Protocol):
    @property
    def pid(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    def close(self) -> None: ...


P = TypeVar("P", bound=_Process)


class _IdleProcesses(Generic[P]):
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


@dataclass(frozen=True)
class _Keyed:
    """A row that another process judges; rows with one key get one judgement."""

    key: tuple[str, str, str]
    deferred: Deferred


def _begin(problem: Problem, completion: str) -> Judgement | _Keyed | None:
    """Judge a row by string operations alone, or say what is left to judge."""
    try:
        if reason := fault(problem):
            return Judgement(Verdict.error, None, reason)
        row = judge_or_defer(problem, completion)
        if not isinstance(row, Deferred):
            return row
        arguments = json.dumps(row.arguments, sort_keys=True, default=str).encode()
        # By their digest: the test cases of a code problem can be megabytes, and keys are remembered.
        return _Keyed((row.verifier, row.extracted, hashlib.sha256(arguments).hexdigest()), row)
    except _ROW_FAULTS as failure:
        return Judgement(Verdict.error, None, one_line(failure))


def _with_id(problem: Problem, judgement: Judgement | None) -> Judgement | None:
    if judgement is None or judgement.verdict != Verdict.error:
        return judgement
    return replace(judgement, detail=f"problem {problem.id}: {judgement.detail}")
