"""Checking answers while others are still being written.

Stands in front of the `VerifierPool`: completions that the sampler calls finished are verified by a thread
at once, and the reward function, which asks for all of a rollout later, finds them done.
"""

from __future__ import annotations

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
        self._begun: list[tuple[list[tuple[str, str]], Future[list[Judgement | None]]]] = []

    def begin(self, problems: Sequence[Problem], completions: Sequence[str]) -> None:
        """Start on these rows; returns at once."""
        future = self._thread.submit(self._pool.verify, list(problems), list(completions))
        keys = [(p.id, c) for p, c in zip(problems, completions, strict=True)]
        self._begun.append((keys, future))

    def verify(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Judgement | None]:
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
