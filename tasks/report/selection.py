"""Which questions and samples the report's browser offers, of tables that may hold millions of completions.

DuckDB reads the Parquet files: of every row the columns that decide, then the texts of the chosen rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from artifacts.tables import table_files
from tasks.problem import Problem, from_table
from tasks.report.browser import ShownSample

QUESTIONS = 240
SAMPLES = 3
"""Of each checkpoint a question."""
STEPS = 5
"""Of the evaluations during one training, first and last among them."""
_ROWS_AT_ONCE = 256

# Steps at equal distances: of those numbered from 0 to `last`, where i * (STEPS - 1) // last rises.
_TABLES = f"""
CREATE VIEW samples AS
SELECT s.* EXCLUDE (step), node, CASE WHEN training THEN step END AS step
FROM parquet s JOIN files USING (filename);

CREATE TABLE answered AS
SELECT id, source, domain, level, language FROM problems
WHERE id IN (SELECT problem_id FROM samples);

CREATE TABLE questions AS
SELECT id, row_number() OVER (ORDER BY turn, domain, level, language, source) AS place FROM (
  SELECT *, row_number() OVER (
    PARTITION BY source, domain, level, language ORDER BY md5(id), id
  ) AS turn
  FROM answered
) ORDER BY place LIMIT {QUESTIONS};

CREATE TABLE steps AS
SELECT node, step FROM (
  SELECT node, step, row_number() OVER w - 1 AS i,
    count(*) OVER (PARTITION BY node, step IS NULL) - 1 AS last
  FROM (SELECT DISTINCT node, step FROM samples) WINDOW w AS (PARTITION BY node, step IS NULL ORDER BY step)
) WHERE i = 0 OR i * {STEPS - 1} // last > (i - 1) * {STEPS - 1} // last;

CREATE TABLE chosen AS
SELECT filename, file_row_number, CASE WHEN judged > 0 THEN correct END AS "right", "of" FROM (
  SELECT s.filename, s.file_row_number, s.node, s.step, s.problem_id, s.sample_index,
    count(*) OVER w AS "of", count(verdict) OVER w AS judged,
    count(*) FILTER (verdict = 'correct') OVER w AS correct,
    row_number() OVER (PARTITION BY s.node, s.step, s.problem_id, verdict ORDER BY s.sample_index) AS turn
  FROM samples s JOIN steps t ON s.node = t.node AND s.step IS NOT DISTINCT FROM t.step
  WHERE problem_id IN (SELECT id FROM questions)
  WINDOW w AS (PARTITION BY s.node, s.step, s.problem_id)
) QUALIFY row_number() OVER (PARTITION BY node, step, problem_id ORDER BY turn, sample_index) <= {SAMPLES};
"""

_PROBLEMS = "SELECT p.* FROM problems p JOIN questions USING (id) ORDER BY place"
_SAMPLES = """
SELECT node, step, problem_id, sample_index, verdict, COLUMNS('^reward'), completion_tokens, finish_reason,
  completion, "right", "of"
FROM samples JOIN chosen USING (filename, file_row_number)
WHERE problem_id IN (SELECT id FROM questions)
"""


@dataclass(frozen=True)
class ChosenCompletions:
    """What the browser may show; how much of it fits into a page is decided there."""

    samples: Sequence[ShownSample]
    problems: Sequence[Problem]
    of_questions: int
    """How many questions have samples."""


def choose(
    problems: Path, evaluations: Mapping[str, Path], during_training: Mapping[str, Path]
) -> ChosenCompletions:
    """Choose from the tables `samples` of evaluations and `evaluation_samples` of trainings, given by node.

    The questions are taken in turn from every source, domain, level and language, in a random order that
    depends on nothing but their ids. Of a checkpoint's samples of a question, the first of each verdict are
    taken before others.
    """
    sources = [(node, shard, False) for node, path in evaluations.items() for shard in table_files(path)]
    sources += [(node, shard, True) for node, path in during_training.items() for shard in table_files(path)]
    files = pa.table({
        "node": [node for node, *_ in sources],
        "filename": [str(shard) for _, shard, _ in sources],
        "training": [training for *_, training in sources],
    })  # fmt: skip
    # No extension is fetched from the network, and nothing is spilled into the current folder.
    with duckdb.connect(config={"autoinstall_known_extensions": "false", "temp_directory": ""}) as duck:
        duck.execute("SET enable_progress_bar = false")
        duck.register("files", files)
        duck.read_parquet(
            files["filename"].to_pylist(), filename=True, file_row_number=True, union_by_name=True
        ).create_view("parquet")
        duck.read_parquet([str(shard) for shard in table_files(problems)]).create_view("problems")
        duck.execute(_TABLES)
        [(total,)] = duck.execute("SELECT count(*) FROM answered").fetchall()
        rows = duck.sql(_PROBLEMS).to_arrow_table()
        found = [
            ShownSample.of_row(row["node"], row, row["step"])
            for batch in duck.sql(_SAMPLES).to_arrow_reader(_ROWS_AT_ONCE)
            for row in batch.to_pylist()
        ]
    order = {row: place for place, row in enumerate(rows["id"].to_pylist())}
    found.sort(key=lambda s: (order[s.question], s.node, s.step is not None, s.step or 0, s.index))
    return ChosenCompletions(found, from_table(rows), total)
