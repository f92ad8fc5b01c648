"""From judged samples to the tables `question_scores` and `scores` (paper D.1; Table 2's rows).

    questions that rules judged   pass_at_1, pass_at_K of the K asked for, cons_at_N of N samples a question
    general                       helpfulness (rubric, 1 to 5, final answer), safe_share (of responses)
    every question                format, language_consistency, length (tokens), truncated

`question_scores` holds one value a question and metric; `scores` are their means with intervals over the
questions of a domain, level, language or source. The report and its claims read these values and compute none
again. `language_consistency` is over the samples that have a thinking block; a metric that says nothing about
a question has no row for it.

Both are SQL over the samples, which DuckDB streams from their files: only the columns that a metric is made
of are read, and memory grows with the questions and not with the completions.
`python -m benchmarks.evaluation` measures a million samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from math import fsum
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from artifacts.tables import conform, table_files
from tasks.evaluate.estimators import consensus, pass_at_k
from tasks.evaluate.voting import SameAnswer, votes
from tasks.intervals import bootstrap
from tasks.problem import DOMAINS, GROUPINGS, VERIFIABLE, Problem
from tasks.rewards.rubric import is_safe, rubric_score
from tasks.tables import QUESTION_SCORES, SCORES

if TYPE_CHECKING:
    import duckdb

OF_EVERY_QUESTION = ("format", "language_consistency", "length", "truncated")
"""Metrics that need no verdict: only they are averaged over `all` questions."""
_METRIC_ORDER = ("pass_at_", "cons_at_", "helpfulness", "safe_share", *OF_EVERY_QUESTION)
_GROUP_ORDER = (*DOMAINS, "verifiable", "all")
_VOTERS = 50_000
"""Different answers whose votes are counted at once."""
_TEXTS = 1_024
"""Answers or completions that are read at once for the rubrics."""
_MEMORY = "1GiB"
"""What DuckDB holds in memory; the rest goes to a temporary folder."""


@dataclass(frozen=True)
class QuestionSet:
    """Problems that are sampled and scored alike: the held-out ones, or those of a benchmark."""

    problems: Sequence[Problem]
    samples: int
    """Of each problem."""
    pass_at: Sequence[int] = ()
    """The k of pass@k beside 1; `samples` where none is given."""

    @property
    def ks(self) -> list[int]:
        return sorted({1, *(self.pass_at or (self.samples,))})


def question_scores(samples: pa.Table | Path, sets: Sequence[QuestionSet], same: SameAnswer) -> pa.Table:
    """Return the `question_scores` rows of a judged `samples` table, in the order of the problems.

    `samples` is a table in memory, or the path of a Parquet file or of a folder of shards. `same` decides
    which answers vote together in cons@k (`tasks.evaluate.voting`).

    Raises:
        ValueError: a problem has another number of samples than its set asks for, or is in no set.
    """
    problems = [problem for asked in sets for problem in asked.problems]
    with _connection() as sql:
        _register_samples(sql, samples)
        sql.register("questions", _questions(sets))
        _refuse_other_counts(sql)
        sql.register("pass_at", _pass_at(sets))
        sql.register("consensus", _consensus(sql, problems, same))
        sql.register("rubrics", _rubrics(sql, problems))
        return conform(sql.sql(_QUESTION_SCORES).to_arrow_table(), QUESTION_SCORES)


def scores(by_question: pa.Table, sets: Sequence[QuestionSet], seed: int) -> pa.Table:
    """Return the `scores` rows of a `question_scores` table: means with intervals by group and metric."""
    with _connection() as sql:
        sql.register("questions", _questions(sets))
        sql.register("question_scores", by_question)
        found = sql.execute(_GROUPS).fetchall()
    rows = []
    for by, group, metric, values, samples in sorted(found, key=_place):
        mean = bootstrap(values, seed)
        assert mean is not None, (by, group, metric)
        rows.append({
            "by": by, "group": group, "metric": metric, "value": mean.value, "low": mean.low,
            "high": mean.high, "questions": mean.count, "samples_per_question": samples,
        })  # fmt: skip
    return conform(rows, SCORES)


_QUESTION_SCORES = """
WITH measured AS (
    SELECT problem_id,
        count(verdict) AS judged,
        count(*) FILTER (verdict = 'correct') AS correct,
        favg(reward_format) AS format,
        favg(CASE WHEN thinking IS NOT NULL THEN reward_language END) AS language_consistency,
        avg(completion_tokens) AS length,
        avg((finish_reason = 'length')::INT) AS truncated
    FROM samples GROUP BY problem_id
), found AS (
    SELECT problem_id, 0 AS place, 'pass_at_' || k AS metric, pass_at.value
    FROM measured JOIN questions USING (problem_id) JOIN pass_at USING (set, judged, correct)
    UNION ALL SELECT problem_id, 1, 'cons_at_' || samples, value
    FROM consensus JOIN questions USING (problem_id)
    UNION ALL SELECT problem_id, 2, metric, value FROM rubrics
    UNION ALL SELECT problem_id, 3, metric, value
    FROM (UNPIVOT measured ON format, language_consistency, length, truncated INTO NAME metric VALUE value)
)
SELECT problem_id, domain, level, language, source, metric, value::DOUBLE AS value
FROM found JOIN questions USING (problem_id) ORDER BY number, place, length(metric), metric
"""

_GROUPS = f"""
WITH rows AS (
    SELECT s.*, q.samples, s.domain IN {VERIFIABLE} AS verifiable
    FROM question_scores s JOIN questions q USING (problem_id)
), grouped AS (
    SELECT 'domain' AS "by", domain AS "group", * FROM rows
    UNION ALL SELECT 'domain', 'verifiable', * FROM rows WHERE verifiable
    UNION ALL SELECT 'domain', 'all', * FROM rows WHERE metric IN {OF_EVERY_QUESTION}
    UNION ALL SELECT 'level', level::VARCHAR, * FROM rows WHERE verifiable AND level IS NOT NULL
    UNION ALL SELECT 'language', language, * FROM rows WHERE verifiable
    UNION ALL SELECT 'source', source, * FROM rows WHERE source <> ''
)
SELECT "by", "group", metric, list(value), min(samples) FROM grouped GROUP BY ALL
"""


def _place(row: Sequence[Any]) -> tuple[Any, ...]:
    """The place of a row of `scores`: by kind of group, group, metric."""
    by, group, metric = row[:3]
    name = metric if metric in _METRIC_ORDER else metric.rstrip("0123456789")
    group_place = _GROUP_ORDER.index(group) if by == "domain" else 0
    return GROUPINGS.index(by), group_place, group, _METRIC_ORDER.index(name), len(metric), metric


@contextmanager
def _connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in memory, which writes what exceeds `_MEMORY` to a folder that is removed afterwards."""
    import duckdb

    with TemporaryDirectory() as folder, duckdb.connect() as sql:
        sql.execute(f"SET memory_limit = '{_MEMORY}'")
        sql.execute(f"SET temp_directory = '{folder}'")
        sql.execute("SET preserve_insertion_order = false")
        yield sql


def _register_samples(sql: duckdb.DuckDBPyConnection, samples: pa.Table | Path) -> None:
    if isinstance(samples, pa.Table):
        sql.register("samples", samples)
    else:
        files = ", ".join("'" + str(file).replace("'", "''") + "'" for file in table_files(samples))
        sql.execute(f"CREATE VIEW samples AS SELECT * FROM read_parquet([{files}])")


def _questions(sets: Sequence[QuestionSet]) -> pa.Table:
    """A row a problem: what the groups, the vote and the rubrics need to know of it."""
    rows = [(p, number, asked.samples) for number, asked in enumerate(sets) for p in asked.problems]
    return pa.table({
        "number": range(len(rows)), "problem_id": [p.id for p, _, _ in rows],
        "domain": [p.domain for p, _, _ in rows],
        "level": pa.array([p.level for p, _, _ in rows], pa.int8()),
        "language": [p.language for p, _, _ in rows], "source": [p.source for p, _, _ in rows],
        "verifier": [p.verifier for p, _, _ in rows],
        "set": [number for _, number, _ in rows], "samples": [samples for _, _, samples in rows],
    })  # fmt: skip


def _refuse_other_counts(sql: duckdb.DuckDBPyConnection) -> None:
    odd = sql.execute(
        "SELECT problem_id, coalesce(found, 0), samples, judged FROM questions FULL JOIN "
        "(SELECT problem_id, count(*) AS found, count(verdict) AS judged FROM samples GROUP BY problem_id) "
        "USING (problem_id) WHERE found IS DISTINCT FROM samples OR judged NOT IN (0, samples) "
        "ORDER BY number LIMIT 1"
    ).fetchone()
    if odd is None:
        return
    problem_id, found, expected, judged = odd
    if expected is None:
        raise ValueError(f"the samples answer problem {problem_id}, which was not asked: sample again")
    if found != expected:
        raise ValueError(f"problem {problem_id} has {found} samples, not {expected}: sample again")
    raise ValueError(f"problem {problem_id} has a verdict on {judged} of {found} samples: judge it again")


def _pass_at(sets: Sequence[QuestionSet]) -> pa.Table:
    """pass@k of each number of correct samples that a question of a set can have."""
    rows = [
        {"set": number, "judged": asked.samples, "correct": c, "k": k,
         "value": pass_at_k(asked.samples, c, k)}
        for number, asked in enumerate(sets) for k in asked.ks for c in range(asked.samples + 1)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def _consensus(sql: duckdb.DuckDBPyConnection, problems: Sequence[Problem], same: SameAnswer) -> pa.Table:
    """cons@k of each question that rules judged: (problem_id, value).

    What votes by its text (`BY_TEXT` of `tasks.evaluate.voting`) is long, and a digest of it is enough.
    """
    by_id = {p.id: p for p in problems}
    answers = sql.sql(r"""
        SELECT problem_id, CASE WHEN verifier IN ('code', 'instructions')
            THEN md5(trim(regexp_replace(answer, '[\x09-\x0d\x1c-\x20\x{85}\p{Z}]+', ' ', 'g')))
            ELSE answer END AS answer,
            verdict, count(*) AS samples, min(sample_index) AS first, any_value(number) AS number
        FROM samples JOIN questions USING (problem_id) WHERE verdict IS NOT NULL
        GROUP BY 1, 2, 3 ORDER BY number, first
    """)
    ids, values = [], []
    for part in _whole_questions(answers, _VOTERS):
        questions = [(by_id[problem_id], rows) for problem_id, rows in part]
        for (problem, rows), cast in zip(questions, votes(questions, same), strict=True):
            correct = [row["verdict"] == "correct" for row in rows]
            ids.append(problem.id)
            values.append(consensus(cast, correct, [row["samples"] for row in rows]))
    return pa.table({"problem_id": pa.array(ids, pa.string()), "value": pa.array(values, pa.float64())})


def _whole_questions(
    rows: duckdb.DuckDBPyRelation, size: int
) -> Iterator[list[tuple[str, list[dict[str, Any]]]]]:
    """About `size` rows at a time, by question; the rows of a question stay together."""
    batches = rows.to_arrow_reader(size)
    given = (row for batch in batches for row in batch.to_pylist())
    part: list[tuple[str, list[dict[str, Any]]]] = []
    count = 0
    for problem_id, group in groupby(given, itemgetter("problem_id")):
        part.append((problem_id, list(group)))
        count += len(part[-1][1])
        if count >= size:
            yield part
            part, count = [], 0
    if part:
        yield part


def _rubrics(sql: duckdb.DuckDBPyConnection, problems: Sequence[Problem]) -> pa.Table:
    """helpfulness and safe_share of each general question with a word list: (problem_id, metric, value)."""
    columns: dict[str, list[Any]] = {"problem_id": [], "metric": [], "value": []}
    for metric, name, column, judge in (
        ("helpfulness", "helpfulness", "answer", rubric_score),
        ("safe_share", "harmlessness", "completion", is_safe),
    ):
        asked = {p.id: p for p in problems if p.domain == "general" and p.verifier_args.get("set") == name}
        judged: dict[str, list[float]] = {}
        for problem_id, text in _texts(sql, list(asked), column):
            judged.setdefault(problem_id, []).append(judge(asked[problem_id], text or ""))
        columns["problem_id"] += judged
        columns["metric"] += [metric] * len(judged)
        # An exact sum: DuckDB reads the samples of a question in any order.
        columns["value"] += [fsum(values) / len(values) for values in judged.values()]
    kinds = (pa.string(), pa.string(), pa.float64())
    return pa.table({
        name: pa.array(values, kind) for (name, values), kind in zip(columns.items(), kinds, strict=True)
    })  # fmt: skip


def _texts(
    sql: duckdb.DuckDBPyConnection, ids: Sequence[str], column: str
) -> Iterator[tuple[str, str | None]]:
    """(problem id, text) of the samples of some problems, which may be too many for the memory."""
    if not ids:
        return
    sql.register("wanted", pa.table({"problem_id": list(ids)}))
    rows = sql.sql(f"SELECT problem_id, {column} FROM samples SEMI JOIN wanted USING (problem_id)")
    for batch in rows.to_arrow_reader(_TEXTS):
        yield from zip(*(part.to_pylist() for part in batch.columns), strict=True)
