"""Questions that are asked twice, also in nearly the same words.

A set with each question a hundred times is no larger than one without, but is trained on and evaluated as if
it were; and of two answers to one question at least one is wrong.

Equal questions are found by a number of 64 bits for each row, the same for texts that differ in white space
only; just the rows that share it are compared. Near duplicates are found by MinHash of five words in a row
(library rensa).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.problem import Problem
from tasks.problems.decontamination import words_of
from tasks.rewards.extraction import fold
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict

Objection = tuple[str, str]
"""Reason and detail of a row of the table `rejected`."""
ONE_ANSWER = ("math", "choice", "exact")
"""Verifiers by which two answers to a question contradict each other unless they are the same."""
_PERMUTATIONS = 128
_WORDS = 5
_VALUES = np.random.default_rng(0).integers(0, 2**63, 256, np.uint64)
_VALUES[[9, 10, 11, 12, 13, 32]] = 0
_PIECE = 2**19


def text_keys(texts: pa.Array) -> NDArray[np.uint64]:
    """Return a number for each text that is the same for texts which differ in white space only.

    Other texts of the same characters may share it, so it only says what is worth a comparison.
    """
    texts = texts.cast(pa.large_string())
    bounds = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    keys = np.zeros(len(texts), np.uint64)
    at = 0
    while at < len(texts):
        end = max(at + 1, int(np.searchsorted(bounds, bounds[at] + _PIECE, "right")) - 1)
        filled = np.flatnonzero(np.diff(bounds[at : end + 1]))
        if len(filled):
            values = _VALUES[data[bounds[at] : bounds[end]]]
            keys[at + filled] = np.add.reduceat(values, (bounds[at:end] - bounds[at])[filled])
        at = end
    return keys


@dataclass
class _Group:
    first: Problem
    rows: list[int]
    answers: dict[str, Problem] = field(default_factory=dict)
    """Answers other than the first one's, folded."""


def repeats(rows: Iterable[tuple[int, Problem]]) -> dict[int, Objection]:
    """Return row -> objection: of problems of a split that ask the same question, the first is kept; none of
    them if their answers differ."""
    groups: dict[bytes, _Group] = {}
    for row, problem in rows:
        group = groups.setdefault(_question(problem), _Group(problem, []))
        group.rows.append(row)
        if problem.verifier in ONE_ANSWER and fold(problem.answer) != fold(group.first.answer):
            group.answers.setdefault(fold(problem.answer), problem)
    found: dict[int, Objection] = {}
    for group in (group for group in groups.values() if len(group.rows) > 1):
        first = group.first
        if other := _differing(group):
            detail = f"answers {first.answer[:60]!r} ({first.id}) and {other.answer[:60]!r} ({other.id})"
            found |= dict.fromkeys(group.rows, ("conflicting-answers", detail))
        else:
            found |= dict.fromkeys(group.rows[1:], ("duplicate", f"asks what {first.id} asks"))
    return found


def near_duplicates(
    rows: Iterable[tuple[int, Problem]], similarity: float
) -> Iterator[tuple[int, Objection]]:
    """Yield (row, objection) of training problems that share most runs of words with an earlier one.

    Problems with another answer stay: generated questions differ in their numbers only.
    """
    from rensa import RMinHash, RMinHashDeduplicator

    known: dict[str, Any] = {}
    answers: dict[str, tuple[str, Any]] = {}
    for row, problem in rows:
        words = words_of(problem.prompt)
        shingles = [" ".join(words[at : at + _WORDS]) for at in range(max(1, len(words) - _WORDS + 1))]
        sketch = RMinHash(_PERMUTATIONS, 42)
        sketch.update(shingles)
        # One index for each answer: only questions with the same one are compared.
        answer = fold(problem.answer) if problem.verifier in ONE_ANSWER else problem.verifier
        if answer not in known:
            known[answer] = RMinHashDeduplicator(similarity, _PERMUTATIONS, True, 32)
        near = [(answers[key][1].jaccard(sketch), key) for key in known[answer].get_duplicates(sketch)]
        share, key = max(near, default=(0.0, ""))
        if share >= similarity:
            yield row, ("near-duplicate", f"about {share:.0%} of the words in a row of {answers[key][0]}")
        else:
            known[answer].add(str(row), sketch)
            answers[str(row)] = problem.id, sketch


def _question(problem: Problem) -> bytes:
    options = problem.verifier_args.get("options") if problem.verifier == "choice" else None
    text = json.dumps([problem.split, " ".join(problem.prompt.split()), options], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _differing(group: _Group) -> Problem | None:
    """Return a problem whose answer is not the first one's: 1/2 and 0.5 are the same."""
    if not group.answers:
        return None
    others = list(group.answers.values())
    with VerifierPool(workers=1) as pool:
        judged = pool.verify(
            [group.first] * len(others),
            [f"<think></think><answer>{other.answer}</answer>" for other in others],
        )
    return next(
        (o for o, j in zip(others, judged, strict=True) if j is None or j.verdict != Verdict.correct), None
    )
