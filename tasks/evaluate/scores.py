"""From judged samples to the `scores` table (paper D.1; Table 2's rows).

    a verifiable domain, "verifiable"   pass_at_1, pass_at_k, cons_at_k (k = samples per question)
    general                             helpfulness (rubric, 1 to 5, final answer), safe_share (of responses)
    every domain, "verifiable", "all"   format, language_consistency, length (tokens), truncated

`language_consistency` is over samples that have a thinking block; `verifiable` pools the questions of
math, code, stem and logic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from artifacts.tables import conform
from tasks.evaluate.metrics import bootstrap, consensus, mean_where, pass_at_k
from tasks.problem import DOMAINS, VERIFIABLE, Problem
from tasks.rewards.rubric import is_safe, rubric_score
from tasks.tables import SCORES

Row = Mapping[str, Any]
Question = tuple[Problem, Sequence[Row]]
"""A problem and its samples in order."""


def scores(samples: pa.Table, problems: Sequence[Problem], samples_per_problem: int, seed: int) -> pa.Table:
    """The `scores` rows of a judged `samples` table.

    Raises:
        ValueError: a problem has another number of samples than `samples_per_problem`.
    """
    questions = _questions(samples, problems, samples_per_problem)
    rows = [
        row
        for domain, group in _groups(questions)
        for metric, values in _per_question(domain, group).items()
        if (row := _score(domain, metric, values, samples_per_problem, seed))
    ]
    return conform(rows, SCORES)


def _questions(samples: pa.Table, problems: Sequence[Problem], expected: int) -> list[Question]:
    rows: dict[str, list[Row]] = {p.id: [] for p in problems}
    for row in samples.to_pylist():
        rows[row["problem_id"]].append(row)
    for problem_id, found in rows.items():
        if len(found) != expected:
            raise ValueError(f"problem {problem_id} has {len(found)} samples, not {expected}: sample again")
    return [(p, sorted(rows[p.id], key=lambda r: r["sample_index"])) for p in problems]


def _groups(questions: Sequence[Question]) -> Iterator[tuple[str, list[Question]]]:
    """Each domain that has questions, then `verifiable` and `all`."""
    for domain in DOMAINS:
        yield domain, [q for q in questions if q[0].domain == domain]
    yield "verifiable", [q for q in questions if q[0].domain in VERIFIABLE]
    yield "all", list(questions)


def _per_question(domain: str, group: Sequence[Question]) -> dict[str, np.ndarray]:
    """Metric -> one value a question, of the metrics that a domain has."""
    if not group:
        return {}
    values = {
        "format": _mean(group, lambda p, r: r["reward_format"]),
        "language_consistency": _mean(group, _language),
        "length": _mean(group, lambda p, r: r["completion_tokens"]),
        "truncated": _mean(group, lambda p, r: r["finish_reason"] == "length"),
    }
    if domain == "general":
        return _preference(group) | values
    return values if domain == "all" else _accuracy(group) | values


def _accuracy(group: Sequence[Question]) -> dict[str, np.ndarray]:
    ruled = [[r for r in rows if r["verdict"] is not None] for _, rows in group]
    ruled = [rows for rows in ruled if rows]
    correct = [[r["verdict"] == "correct" for r in rows] for rows in ruled]
    answers = [[r["answer"] for r in rows] for rows in ruled]
    return {
        "pass_at_1": np.array([pass_at_k(len(c), sum(c), 1) for c in correct]),
        "pass_at_k": np.array([pass_at_k(len(c), sum(c), len(c)) for c in correct]),
        "cons_at_k": np.array([consensus(a, c) for a, c in zip(answers, correct, strict=True)]),
    }


def _preference(group: Sequence[Question]) -> dict[str, np.ndarray]:
    helpful = [q for q in group if q[0].verifier_args.get("set") == "helpfulness"]
    harmless = [q for q in group if q[0].verifier_args.get("set") == "harmlessness"]
    return {
        "helpfulness": _mean(helpful, lambda p, r: rubric_score(p, r["answer"] or "")),
        "safe_share": _mean(harmless, lambda p, r: is_safe(p, r["completion"])),
    }


def _language(problem: Problem, row: Row) -> float:
    return np.nan if row["thinking"] is None else row["reward_language"]


def _mean(group: Sequence[Question], value: Callable[[Problem, Row], float]) -> np.ndarray:
    """One value a question: the mean over its samples."""
    if not group:
        return np.empty(0)
    return mean_where(np.array([[value(p, r) for r in rows] for p, rows in group], dtype=np.float64))


def _score(domain: str, metric: str, values: np.ndarray, samples: int, seed: int) -> Row | None:
    found = bootstrap(values, seed)
    if found is None:
        return None
    return {
        "domain": domain, "metric": metric, "value": found.value, "low": found.low, "high": found.high,
        "questions": found.questions, "samples_per_question": samples,
    }  # fmt: skip
