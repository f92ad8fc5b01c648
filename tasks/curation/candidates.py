"""Candidates for training data: judged samples, why some are dropped, and the tables of both (B.3.2, B.3.3).

Correctness is checked here; whether a trace can be read is asked of `tasks.curation.readability`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from artifacts.tables import conform
from tasks.curation.readability import unreadable
from tasks.problem import Problem
from tasks.rendering import parse_completion
from tasks.settings import Settings
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

    @property
    def thinking(self) -> str:
        """The thinking block, empty where there is none."""
        return parse_completion(self.completion).thinking or ""


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
    return [Candidate(by_id[row.pop("problem_id")], **row) for row in samples.select(columns).to_pylist()]


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
    if parse_completion(c.completion).well_formed:
        return None
    return Rejection("malformed", "expected <think> ... </think> <answer> ... </answer> and nothing else")


CORRECT = (not_correct, truncated, malformed)
"""What every trace must pass before anyone asks whether it can be read."""


def first_objection(
    c: Candidate, checks: Sequence[Check], names: Sequence[str], limits: Settings
) -> Rejection | None:
    """The first reason to drop the candidate: of `checks`, then of the readability filters `names`."""
    for check in checks:
        if found := check(c):
            return found
    for name in names:
        if detail := unreadable(name, c.thinking, c.problem.language, limits):
            return Rejection(name, detail)
    return None


def first_distinct(
    passed: Sequence[Candidate], keep_per_problem: int
) -> tuple[list[Candidate], list[tuple[Candidate, Rejection]]]:
    """At most so many distinct completions of each problem, in sampling order.

    The first and not the shortest: sampling order knows nothing of length, so the kept lengths are
    those of the model's own correct, readable answers.
    """
    kept: list[Candidate] = []
    dropped: list[tuple[Candidate, Rejection]] = []
    taken: dict[str, set[str]] = {}
    for c in passed:
        texts = taken.setdefault(c.problem.id, set())
        if c.completion.strip() in texts:
            dropped.append((c, Rejection("duplicate", "the same completion was kept already")))
        elif len(texts) == keep_per_problem:
            dropped.append((c, Rejection("over-quota", f"{keep_per_problem} of this problem were kept")))
        else:
            texts.add(c.completion.strip())
            kept.append(c)
    return kept, dropped


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


def require_some(
    kept: Sequence[Candidate], dropped: Sequence[tuple[Candidate, Rejection]], what: str
) -> None:
    """Raises ValueError with the counts by reason where nothing is left to train on."""
    if not kept:
        counts = ", ".join(f"{reason} {n}" for reason, n in reason_counts(dropped).items()) or "no samples"
        raise ValueError(
            f"{what}: none of {len(dropped)} candidates passed ({counts}): train the sampled model longer, "
            "sample more per problem, or relax `readability`"
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
