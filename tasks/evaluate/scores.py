"""From judged samples to the tables `question_scores` and `scores` (paper D.1; Table 2's rows).

    a verifiable domain   pass_at_1, pass_at_k, cons_at_k (k = samples per question)
    general               helpfulness (rubric, 1 to 5, final answer), safe_share (of responses)
    every domain          format, language_consistency, length (tokens), truncated

`question_scores` holds one value a question and metric; `scores` are their means with intervals over the
questions of a domain, of `verifiable` (math, code, stem and logic together) and of `all`. The report and its
claims read these values and compute none again. `language_consistency` is over the samples that have a
thinking block; a metric that says nothing about a question has no row for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from artifacts.tables import conform
from tasks.evaluate.estimators import consensus, mean_where, pass_at_k
from tasks.evaluate.voting import SameAnswer, votes
from tasks.intervals import bootstrap
from tasks.problem import DOMAINS, VERIFIABLE, Problem
from tasks.rewards.rubric import is_safe, rubric_score
from tasks.tables import QUESTION_SCORES, SCORES

Row = Mapping[str, Any]
Question = tuple[Problem, Sequence[Row]]
"""A problem and its samples in order."""

_ACCURACY = ("pass_at_1", "pass_at_k", "cons_at_k")
_PREFERENCE = ("helpfulness", "safe_share")
_OF_EVERY_DOMAIN = ("format", "language_consistency", "length", "truncated")


def question_scores(
    samples: pa.Table, problems: Sequence[Problem], samples_per_problem: int, same: SameAnswer
) -> pa.Table:
    """Return the `question_scores` rows of a judged `samples` table, in the order of `problems`.

    `same` decides which answers vote together in cons@k (`tasks.evaluate.voting`).

    Raises:
        ValueError: a problem has another number of samples than `samples_per_problem`.
    """
    questions = _questions(samples, problems, samples_per_problem)
    verifiable = [q for q in questions if q[0].domain in VERIFIABLE]
    general = [q for q in questions if q[0].domain not in VERIFIABLE]
    found = [*_accuracy(verifiable, same), *_preference(general), *_of_every_domain(questions)]
    return conform([row for rows in found for row in rows], QUESTION_SCORES)


def scores(by_question: pa.Table, samples_per_problem: int, seed: int) -> pa.Table:
    """Return the `scores` rows of a `question_scores` table: means with intervals by domain and metric."""
    rows = by_question.to_pylist()
    found = [
        _score(domain, metric, [row["value"] for row in group if row["metric"] == metric], seed)
        for domain, metrics, group in _groups(rows)
        for metric in metrics
    ]
    return conform(
        [score | {"samples_per_question": samples_per_problem} for score in found if score], SCORES
    )


def _questions(samples: pa.Table, problems: Sequence[Problem], expected: int) -> list[Question]:
    rows: dict[str, list[Row]] = {p.id: [] for p in problems}
    for row in samples.to_pylist():
        rows[row["problem_id"]].append(row)
    for problem_id, found in rows.items():
        if len(found) != expected:
            raise ValueError(f"problem {problem_id} has {len(found)} samples, not {expected}: sample again")
    return [(p, sorted(rows[p.id], key=lambda r: r["sample_index"])) for p in problems]


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, Sequence[str], list[Row]]]:
    """Each domain, then `verifiable` and `all`: name, metrics, rows."""
    for domain in DOMAINS:
        special = _ACCURACY if domain in VERIFIABLE else _PREFERENCE
        yield domain, (*special, *_OF_EVERY_DOMAIN), [r for r in rows if r["domain"] == domain]
    verifiable = [r for r in rows if r["domain"] in VERIFIABLE]
    yield "verifiable", (*_ACCURACY, *_OF_EVERY_DOMAIN), verifiable
    yield "all", _OF_EVERY_DOMAIN, list(rows)


def _accuracy(questions: Sequence[Question], same: SameAnswer) -> Iterator[list[Row]]:
    """Of the questions whose answers a rule judged."""
    judged = [(problem, [r for r in rows if r["verdict"] is not None]) for problem, rows in questions]
    judged = [(problem, rows) for problem, rows in judged if rows]
    for (problem, rows), cast in zip(judged, votes(judged, same), strict=True):
        correct = [r["verdict"] == "correct" for r in rows]
        n, c = len(correct), sum(correct)
        yield [
            _row(problem, "pass_at_1", pass_at_k(n, c, 1)),
            _row(problem, "pass_at_k", pass_at_k(n, c, n)),
            _row(problem, "cons_at_k", consensus(cast, correct)),
        ]


def _preference(questions: Sequence[Question]) -> Iterator[list[Row]]:
    helpful = [q for q in questions if q[0].verifier_args.get("set") == "helpfulness"]
    harmless = [q for q in questions if q[0].verifier_args.get("set") == "harmlessness"]
    yield _means("helpfulness", helpful, lambda p, r: rubric_score(p, r["answer"] or ""))
    yield _means("safe_share", harmless, lambda p, r: is_safe(p, r["completion"]))


def _of_every_domain(questions: Sequence[Question]) -> Iterator[list[Row]]:
    yield _means("format", questions, lambda p, r: r["reward_format"])
    yield _means("language_consistency", questions, _language)
    yield _means("length", questions, lambda p, r: r["completion_tokens"])
    yield _means("truncated", questions, lambda p, r: r["finish_reason"] == "length")


def _language(problem: Problem, row: Row) -> float:
    return np.nan if row["thinking"] is None else row["reward_language"]


def _means(metric: str, questions: Sequence[Question], value: Callable[[Problem, Row], float]) -> list[Row]:
    """A row a question: the mean over its samples, where it has one."""
    if not questions:
        return []
    values = np.array([[value(p, r) for r in rows] for p, rows in questions], dtype=np.float64)
    means = mean_where(values)
    return [
        _row(problem, metric, mean)
        for (problem, _), mean in zip(questions, means, strict=True)
        if not np.isnan(mean)
    ]


def _row(problem: Problem, metric: str, value: float) -> Row:
    return {"problem_id": problem.id, "domain": problem.domain, "metric": metric, "value": float(value)}


def _score(domain: str, metric: str, values: Sequence[float], seed: int) -> dict[str, Any] | None:
    found = bootstrap(values, seed)
    if found is None:
        return None
    return {
        "domain": domain, "metric": metric, "value": found.value, "low": found.low, "high": found.high,
        "questions": found.count,
    }  # fmt: skip
