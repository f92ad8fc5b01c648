"""Checking answers while others are still being written.

Stands in front of the `VerifierPool`: completions that the sampler calls finished are verified by a thread
at once, and the reward function, which asks for all of a rollout later, finds them done.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from tasks.rewards.score import Verifies

if TYPE_CHECKING:
    from tasks.problem import Problem
    from tasks.rewards.verdict import Judgement


class EarlyVerifier:
    """A pool whose work may be started before it is asked for. Use it as a context manager."""

    def __init__(self, pool: Verifies) -> None:
        self._pool = pool
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="early-verify")
        self._lock = threading.Lock()
        self._waiting: list[tuple[Problem, str]] = []
        self._begun: list[Future[dict[tuple[str, str], Judgement | None]]] = []

    def begin(self, problems: Sequence[Problem], completions: Sequence[str]) -> None:
        """Start on these rows; returns at once."""
        with self._lock:
            self._waiting += zip(problems, completions, strict=True)
        self._begun.append(self._thread.submit(self._check_waiting))

    def _check_waiting(self) -> dict[tuple[str, str], Judgement | None]:
        """Everything that came in while the pool was busy goes to it in one call, so that all its workers
        have something to do although engines tell of one completion at a time."""
        with self._lock:
            rows, self._waiting = self._waiting, []
        judged = self._pool.verify([p for p, _ in rows], [c for _, c in rows]) if rows else []
        return {(p.id, c): judgement for (p, c), judgement in zip(rows, judged, strict=True)}

    def verify(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Judgement | None]:
        """One judgement a row, in order; as the pool's, and raises what the pool raised."""
        begun, self._begun = self._begun, []
        known = {key: judgement for future in begun for key, judgement in future.result().items()}
        pairs = list(zip(problems, completions, strict=True))
        missing = [(p, c) for p, c in pairs if (p.id, c) not in known]
        judged = iter(self._pool.verify([p for p, _ in missing], [c for _, c in missing]))
        return [known[key] if (key := (p.id, c)) in known else next(judged) for p, c in pairs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(cancel_futures=True)
