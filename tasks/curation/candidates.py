"""Candidates for training data: judged samples, why some are dropped, and the tables of both (B.3.2, B.3.3).

Correctness is checked here; whether a trace can be read is asked of `tasks.curation.readability`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from artifacts.tables import conform
from tasks.problem import Problem
from tasks.rendering import Parsed, parse_completion
from tasks.tables import REJECTED, SFT


@dataclass(frozen=True)
class Candidate:
    """A judged sample of a problem."""

    problem: Problem
    prompt: str
    completion: str
    verdict: str | None
    finish_reason: str
    sample_index: int
    tokens: int = 0
    """Of the completion, as it was sampled."""

    @cached_property
    def parsed(self) -> Parsed:
        """The completion taken apart, once."""
        return parse_completion(self.completion)

    @property
    def thinking(self) -> str:
        """The thinking block, empty where there is none."""
        return self.parsed.thinking or ""


@dataclass(frozen=True)
class Rejection:
    """Why a candidate was dropped: `reason` to count by, `detail` to read."""

    reason: str
    detail: str = ""


Check = Callable[[Candidate], Rejection | None]


def candidates(samples: pa.Table, problems: Iterable[Problem]) -> list[Candidate]:
    """The rows of a judged `samples` table with their problems, in order."""
    by_id = {p.id: p for p in problems}
    columns = ["problem_id", "prompt", "completion", "verdict", "finish_reason", "sample_index"]
    rows = zip(*(samples[name].to_pylist() for name in (*columns, "completion_tokens")), strict=True)
    return [Candidate(by_id[problem], *row) for problem, *row in rows]


def not_correct(c: Candidate) -> Rejection | None:
    """Only what the rules call correct is kept; the reason is the verdict."""
    if c.verdict == "correct":
        return None
    return Rejection(c.verdict or "no-verdict", f"expected {c.problem.answer[:200]}")


def truncated(c: Candidate) -> Rejection | None:
    """Cut by the length limit."""
    return None if c.finish_reason == "stop" else Rejection("truncated", f"finish_reason {c.finish_reason}")


def malformed(c: Candidate) -> Rejection | None:
    """Not one thinking block followed by one answer block."""
    if c.parsed.well_formed:
        return None
    return Rejection("malformed", "expected <think> ... </think> <answer> ... </answer> and nothing else")


CORRECT = (not_correct, truncated, malformed)
"""What every trace must pass before anyone asks whether it can be read."""


def incorrect(c: Candidate) -> Rejection | None:
    """The first reason of `CORRECT` to drop a candidate."""
    return next((found for check in CORRECT if (found := check(c))), None)


def duplicates(candidates: Iterable[Candidate]) -> list[Rejection | None]:
    """Equal completions of a problem but the first."""
    seen: set[tuple[str, str]] = set()
    found: list[Rejection | None] = []
    for c in candidates:
        text = c.problem.id, c.completion.strip()
        known = Rejection("duplicate", "the same completion was kept already")
        found.append(known if text in seen else None)
        seen.add(text)
    return found


@dataclass
class Sieve:
    """Candidates on their way through the steps of a curation. Every one is kept or dropped once."""

    kept: list[Candidate]
    dropped: list[tuple[Candidate, Rejection]] = field(default_factory=list)
    steps: list[tuple[str, int, dict[str, int]]] = field(default_factory=list)
    """Name, rows kept, rows dropped by reason: what `Funnel.add` takes."""

    def step(self, name: str, found: Sequence[Candidate | Rejection | None]) -> None:
        """Apply a step: for each kept candidate None to keep it, another one in its place, or a reason."""
        kept, dropped = [], []
        for before, after in zip(self.kept, found, strict=True):
            if isinstance(after, Rejection):
                dropped.append((before, after))
            else:
                kept.append(after or before)
        self.kept = kept
        self.dropped += dropped
        self.steps.append((name, len(kept), reason_counts(dropped)))


def rejected_table(dropped: Iterable[tuple[Candidate, Rejection]]) -> pa.Table:
    """The `rejected` rows of dropped candidates."""
    rows = [
        {"problem_id": c.problem.id, "text": c.completion, "reason": r.reason, "detail": r.detail}
        for c, r in dropped
    ]
    return conform(rows, REJECTED)


def reason_counts(dropped: Iterable[tuple[Candidate, Rejection]]) -> dict[str, int]:
    """How many candidates each reason dropped, most frequent first."""
    return dict(Counter(r.reason for _, r in dropped).most_common())


def require_some(kept: int, reasons: Counter[str], what: str) -> None:
    """Raises ValueError with the counts by reason where nothing is left to train on."""
    if not kept:
        counts = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common()) or "no samples"
        raise ValueError(
            f"{what}: none of {reasons.total()} candidates passed ({counts}): train the sampled model "
            "longer, sample more per problem, or relax `readability`"
        )


def sft_table(kept: Sequence[Candidate], source: str, template: str) -> pa.Table:
    """The `sft` rows of kept candidates; `source` is the digest of the checkpoint that wrote them, `template`
    that of their prompts."""
    return conform(
        [
            {
                "problem_id": c.problem.id,
                "domain": c.problem.domain,
                "language": c.problem.language,
                "prompt": c.prompt,
                "completion": c.completion,
                "source": source,
                "question": c.problem.prompt,
                "template": template,
            }
            for c in kept
        ],
        SFT,
    )
