"""Checking answers while others are still being written.

Stands in front of the `VerifierPool`: completions that the sampler calls finished are verified by a thread
at once, and the reward function, which asks for all of a rollout later, finds them done.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from tasks.problem import Problem
    from tasks.rewards.verdict import Judgement


class Verifies(Protocol):
    def verify(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Judgement]: ...


class EarlyVerifier:
    """A pool whose work may be started before it is asked for. Use it as a context manager."""

    def __init__(self, pool: Verifies) -> None:
        self._pool = pool
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="early-verify")
        self._begun: list[tuple[list[tuple[str, str]], Future[list[Judgement]]]] = []

    def begin(self, problems: Sequence[Problem], completions: Sequence[str]) -> None:
        """Start on these rows; returns at once."""
        rows = [(p, c) for p, c in zip(problems, completions, strict=True) if p.verifier != "rubric"]
        if rows:
            asked, written = [p for p, _ in rows], [c for _, c in rows]
            future = self._thread.submit(self._pool.verify, asked, written)
            self._begun.append(([(p.id, c) for p, c in rows], future))

    def verify(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Judgement]:
        """One judgement a row, in order; as the pool's, and raises what the pool raised."""
        known = {
            key: judgement
            for keys, future in self._begun
            for key, judgement in zip(keys, future.result(), strict=True)
        }
        self._begun.clear()
        pairs = list(zip(problems, completions, strict=True))
        missing = [(p, c) for p, c in pairs if (p.id, c) not in known]
        judged = iter(self._pool.verify([p for p, _ in missing], [c for _, c in missing]))
        return [known[key] if (key := (p.id, c)) in known else next(judged) for p, c in pairs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(cancel_futures=True)
