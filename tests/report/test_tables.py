import io

import pyarrow as pa
import pytest
from rich.console import Console

from tasks.report.tables import (
    COLUMNS,
    MISSING,
    CheckpointScore,
    StageRow,
    duration,
    load_stage_rows,
    percent_and_interval,
    percent_and_margin,
    rows_from_json,
    rows_to_json,
    stage_table,
    to_markdown,
    to_rich,
)
from tasks.tables import SCORES


def scores(**values: float) -> pa.Table:
    rows = [
        {"by": "domain", "group": d, "metric": "pass_at_1", "value": v, "low": v - 0.04, "high": v + 0.03,
         "questions": 50, "samples_per_question": 8}
        for d, v in values.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCORES)


def test_rows_follow_the_recipe_whatever_the_order_given():
    names = ["tiny-student-rl-only", "r1", "zebra", "base", "tiny-student-base", "dev1", "r1-zero"]
    rows = stage_table({name: scores(math=0.5) for name in names})
    assert [row.node for row in rows] == [
        "base", "r1-zero", "dev1", "r1", "tiny-student-base", "tiny-student-rl-only", "zebra",
    ]  # fmt: skip
    assert rows[5].title == "Student, RL only"
    assert rows[6].title == "zebra"


def test_markdown_shows_intervals_time_and_only_filled_columns():
    rows = stage_table({"base": scores(math=0.25), "r1": scores(math=0.8, logic=0.5)}, {"r1": 200})
    lines = to_markdown(rows).splitlines()
    assert lines[0] == "| Stage | Math | Logic | Time |"
    assert lines[2] == f"| Base | 25.0 [21.0, 28.0] | {MISSING} | {MISSING} |"
    assert lines[3] == "| R1 | 80.0 [76.0, 83.0] | 50.0 [46.0, 53.0] | 3:20 min |"


def test_the_margin_is_the_wider_half_of_the_interval():
    score = CheckpointScore(0.62, 0.55, 0.64, 50, 8)
    assert percent_and_margin(score) == "62±7"
    assert percent_and_interval(score) == "62.0 [55.0, 64.0]"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, MISSING),
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00 min"),
        (3599.4, "59:59 min"),
        (7500, "2:05 h"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_a_full_terminal_table_fits_100_columns():
    full = {
        f"{c.domain}/{c.metric}4" if c.metric.endswith("_at_") else f"{c.domain}/{c.metric}": CheckpointScore(
            1.0, 0.9, 1.0, 9, 4
        )
        for c in COLUMNS
    }
    full["verifiable/length"] = CheckpointScore(12_345.0, 12_000.0, 12_800.0, 9, 4)
    out = io.StringIO()
    Console(file=out, width=100).print(to_rich([StageRow("tiny-student-distilled", full, 3599.0)]))
    head, _, row = out.getvalue().splitlines()[1:4]
    assert head.split() == [
        "Stage", "Math", "Code", "STEM", "Logic", "All", "c@k", "p@k", "Fmt", "Lang", "Len", "Help", "Safe",
        "Time",
    ]  # fmt: skip
    percents = "100±10 100±10 100±10 100±10 100±10 100 100 100 100"
    assert row.split("distilled")[1].split() == f"{percents} 12,345 1.0 100 59:59 min".split()
    assert max(map(len, out.getvalue().splitlines())) <= 100


def test_rows_come_from_a_report_or_from_evaluations(report, loaded):
    assert load_stage_rows({"report": report.draft}) == loaded.rows
    paths = {n: i.path for n, i in report.inputs.items() if n.startswith("evaluation.")}
    alone = load_stage_rows(paths)
    assert [(r.node, r.scores) for r in alone] == [(r.node, r.scores) for r in loaded.rows]
    assert {r.seconds for r in alone} == {None}


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither stages\.json nor scores\.parquet"):
        load_stage_rows({"r1": tmp_path})


def test_rows_survive_json(loaded):
    assert rows_from_json(rows_to_json(loaded.rows)) == loaded.rows
