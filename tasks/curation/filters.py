"""Which samples become training data, and why the others do not (paper B.3.2, B.3.3).

Pure functions from a candidate to a `Rejection` or None. The paper names the filters (repetition, mixed
language, long paragraphs, code blocks) and not their thresholds: see `tasks.curation.settings.Readability`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from artifacts.tables import conform
from tasks.curation.settings import Readability
from tasks.problem import Problem
from tasks.rendering import parse_completion
from tasks.rewards.language import language_consistency, repetition
from tasks.tables import REJECTED

_CODE_BLOCK = re.compile(r"```|~~~|(?:^|\n)(?: {4}|\t)\S.*\n(?: {4}|\t)\S")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")


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


Check = Callable[[Candidate, Readability], Rejection | None]


def candidates(samples: pa.Table, problems: Iterable[Problem]) -> list[Candidate]:
    """The rows of a judged `samples` table with their problems, in order."""
    by_id = {p.id: p for p in problems}
    columns = ["problem_id", "prompt", "completion", "verdict", "finish_reason", "sample_index"]
    return [Candidate(by_id[row.pop("problem_id")], **row) for row in samples.select(columns).to_pylist()]


def not_correct(c: Candidate, limits: Readability) -> Rejection | None:
    """Only what the rules call correct is kept; the reason is the verdict."""
    if c.verdict == "correct":
        return None
    return Rejection(c.verdict or "no-verdict", f"expected {c.problem.answer[:200]}")


def truncated(c: Candidate, limits: Readability) -> Rejection | None:
    """Cut by the length limit."""
    return None if c.finish_reason == "stop" else Rejection("truncated", f"finish_reason {c.finish_reason}")


def malformed(c: Candidate, limits: Readability) -> Rejection | None:
    """Not one thinking block followed by one answer block."""
    if parse_completion(c.completion).well_formed:
        return None
    return Rejection("malformed", "expected <think> ... </think> <answer> ... </answer> and nothing else")


def repetitive(c: Candidate, limits: Readability) -> Rejection | None:
    """An n-gram of the thinking occurs too often."""
    times = repetition(c.thinking, limits.repetition_ngram)
    if times <= limits.max_repeats:
        return None
    return Rejection(
        "repetition", f"a {limits.repetition_ngram}-gram occurs {times} times, at most {limits.max_repeats}"
    )


def long_paragraph(c: Candidate, limits: Readability) -> Rejection | None:
    """A paragraph of the thinking has too many words; a CJK character counts as one."""
    words = max((len(_WORD.findall(p)) for p in re.split(r"\n\s*\n", c.thinking)), default=0)
    if words <= limits.max_paragraph_words:
        return None
    return Rejection("long-paragraph", f"{words} words, at most {limits.max_paragraph_words}")


def code_in_thinking(c: Candidate, limits: Readability) -> Rejection | None:
    """A fenced or indented code block in the thinking."""
    match = None if limits.allow_code_in_thinking else _CODE_BLOCK.search(c.thinking)
    return Rejection("code-block", match[0].strip()[:80]) if match else None


def mixed_language(c: Candidate, limits: Readability) -> Rejection | None:
    """Too little of the thinking is in the question's language."""
    share = language_consistency(c.thinking, c.problem.language)
    if share >= limits.language_consistency:
        return None
    return Rejection(
        "mixed-language",
        f"{share:.2f} of the words are {c.problem.language}, at least {limits.language_consistency}",
    )


CORRECT: tuple[Check, ...] = (not_correct, truncated, malformed)
LEGIBLE: tuple[Check, ...] = (repetitive, code_in_thinking, long_paragraph)


def first_objection(c: Candidate, checks: Sequence[Check], limits: Readability) -> Rejection | None:
    """The first check that rejects the candidate."""
    return next((r for check in checks if (r := check(c, limits))), None)


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
