"""The stage table: one row a checkpoint, all under one evaluation protocol (paper Table 3).

Reads the `scores` tables of evaluations; imports neither torch nor a plotting library, so the command
line can show it at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.problem import VERIFIABLE, group_name
from tasks.recipe import in_order, title
from tasks.report.names import DOMAIN_TITLES
from tasks.text_safety import for_markdown, for_terminal

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

STAGES_FILE = "stages.json"
"""The rows in a report artifact."""
MISSING = "–"


@dataclass(frozen=True)
class CheckpointScore:
    """A mean over questions with its 95% interval."""

    value: float
    low: float
    high: float
    questions: int
    samples_per_question: int


@dataclass(frozen=True)
class StageRow:
    """One checkpoint under the evaluation protocol."""

    node: str
    scores: Mapping[str, CheckpointScore]
    """`group/metric` -> score: `math/pass_at_1`, `level 3/pass_at_1`, `source aime24/cons_at_64`."""
    seconds: float | None = None
    """What making the checkpoint took; None where the row comes from an evaluation alone."""

    @property
    def title(self) -> str:
        return title(self.node)

    def score(self, group: str, metric: str) -> CheckpointScore | None:
        """The score of a group (`tasks.problem.group_name`), None where there is none.

        `cons_at_` and `pass_at_` stand for the metric with any number above 1: where there are several, for
        that over most questions, then with the highest number.
        """
        if not metric.endswith("_at_"):
            return self.scores.get(f"{group}/{metric}")
        start = f"{group}/{metric}"
        found = {
            int(name.removeprefix(start)): score
            for name, score in self.scores.items()
            if name.startswith(start) and name != f"{group}/pass_at_1"
        }
        return found[max(found, key=lambda k: (found[k].questions, k))] if found else None


def stage_table(
    evaluations: Mapping[str, pa.Table], seconds: Mapping[str, float] | None = None
) -> list[StageRow]:
    """Rows in the order of the recipe from each node's `scores` table."""
    return [
        StageRow(node, _scores(evaluations[node]), (seconds or {}).get(node))
        for node in in_order(evaluations)
    ]


def _scores(table: pa.Table) -> dict[str, CheckpointScore]:
    return {
        f"{group_name(row['by'], row['group'])}/{row['metric']}": CheckpointScore(
            row["value"], row["low"], row["high"], row["questions"], row["samples_per_question"]
        )
        for row in table.to_pylist()
    }


def load_stage_rows(report_or_evaluation_paths: Mapping[str, Path]) -> list[StageRow]:
    """Rows from artifact folders: a report holds all of them, an evaluation the one of its label.

    Raises:
        FileNotFoundError: a folder is neither a report nor an evaluation.
    """
    import pyarrow.parquet as pq

    rows: list[StageRow] = []
    evaluations = {}
    for label, path in report_or_evaluation_paths.items():
        if (path / STAGES_FILE).exists():
            rows += rows_from_json((path / STAGES_FILE).read_text())
        elif (path / "scores.parquet").exists():
            evaluations[label.removeprefix("evaluation.")] = pq.read_table(path / "scores.parquet")
        else:
            raise FileNotFoundError(f"{path} holds neither {STAGES_FILE} nor scores.parquet: not a report")
    return rows + stage_table(evaluations)


def rows_to_json(rows: Sequence[StageRow]) -> str:
    return json.dumps([asdict(row) for row in rows], indent=1)


def rows_from_json(text: str) -> list[StageRow]:
    return [
        StageRow(
            row["node"],
            {name: CheckpointScore(**score) for name, score in row["scores"].items()},
            row["seconds"],
        )
        for row in json.loads(text)
    ]


def percent(score: CheckpointScore | None) -> str:
    """Without the interval: `62`."""
    return MISSING if score is None else f"{100 * score.value:.0f}"


def percent_and_margin(score: CheckpointScore | None) -> str:
    """The wider half of the interval as the margin: `62±4`."""
    if score is None:
        return MISSING
    margin = max(score.high - score.value, score.value - score.low)
    return f"{100 * score.value:.0f}±{100 * margin:.0f}"


def percent_and_interval(score: CheckpointScore | None) -> str:
    """`62.1 [58.0, 66.3]`"""
    if score is None:
        return MISSING
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def plain(score: CheckpointScore | None) -> str:
    """A mean in points of a rubric."""
    return MISSING if score is None else f"{score.value:.1f}"


def whole(score: CheckpointScore | None) -> str:
    """A mean without decimals: tokens."""
    return MISSING if score is None else f"{score.value:,.0f}"


def duration(seconds: float | None) -> str:
    """`45 s`, `3:20 min`, `2:05 h`."""
    if seconds is None:
        return MISSING
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


@dataclass(frozen=True)
class Column:
    """A column of the stage table; `long` and `short` say how a row's cell reads."""

    head: str
    domain: str
    """Or another group of questions (`tasks.problem.group_name`)."""
    metric: str
    long: Callable[[CheckpointScore | None], str]
    short: Callable[[CheckpointScore | None], str]
    short_head: str = ""

    def cell(self, row: StageRow, *, compact: bool = False) -> str:
        return (self.short if compact else self.long)(row.score(self.domain, self.metric))


COLUMNS = (
    *(Column(DOMAIN_TITLES[d], d, "pass_at_1", percent_and_interval, percent_and_margin) for d in VERIFIABLE),
    Column("All", "verifiable", "pass_at_1", percent_and_interval, percent_and_margin),
    Column("cons@k", "verifiable", "cons_at_", percent_and_interval, percent, "c@k"),
    Column("pass@k", "verifiable", "pass_at_", percent_and_interval, percent, "p@k"),
    Column("Format", "verifiable", "format", percent_and_interval, percent, "Fmt"),
    Column("Lang", "verifiable", "language_consistency", percent_and_interval, percent),
    Column("Len", "verifiable", "length", whole, whole),
    Column("Help", "general", "helpfulness", plain, plain),
    Column("Safe", "general", "safe_share", percent_and_interval, percent),
)
"""Shares in percent, length in tokens, helpfulness in points of the rubric (1 to 5)."""

LEGEND = (
    "pass@1, cons@k, pass@k, format, language consistency and safe share in percent; "
    "length in tokens; helpfulness from 1 to 5; 95% intervals over questions"
)


def shown_columns(rows: Sequence[StageRow]) -> list[Column]:
    """The columns that at least one row fills."""
    return [c for c in COLUMNS if any(row.score(c.domain, c.metric) for row in rows)]


def columns_by(kind: str, rows: Sequence[StageRow]) -> list[Column]:
    """A column of pass@1 for each level, language or source that a row has; none where there is only one."""
    start, end = group_name(kind, ""), "/pass_at_1"
    names = {name.removesuffix(end) for row in rows for name in row.scores if name.endswith(end)}
    found = [
        Column(name.removeprefix(start), name, "pass_at_1", percent_and_interval, percent)
        for name in sorted(names)
        if name.startswith(start)
    ]
    return found if len(found) > 1 else []


def to_markdown(rows: Sequence[StageRow]) -> str:
    """A GitHub table with full intervals."""
    columns = shown_columns(rows)
    lines = [["Stage", *(c.head for c in columns), "Time"], ["---", *("---:" for _ in columns), "---:"]]
    lines += [
        [for_markdown(row.title), *(c.cell(row) for c in columns), duration(row.seconds)] for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{LEGEND}\n"


def to_rich(rows: Sequence[StageRow]) -> Table:
    """For a terminal of 100 columns."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, caption=LEGEND, caption_justify="left")
    columns = shown_columns(rows)
    table.add_column("Stage", no_wrap=True)
    for column in columns:
        table.add_column(column.short_head or column.head, justify="right", no_wrap=True)
    table.add_column("Time", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(for_terminal(row.title)),
            *(c.cell(row, compact=True) for c in columns),
            duration(row.seconds),
        )
    return table
