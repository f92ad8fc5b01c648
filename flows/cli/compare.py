"""`r1 compare RUN_A RUN_B`: settings that differ, scores with paired intervals, curves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.shared import complain, one_line_errors, open_store, print_table, say

if TYPE_CHECKING:
    from tasks.report.comparison import Comparison

Run = Annotated[
    str,
    typer.Argument(
        help="A preset or experiment (its newest report), an artifact's name or digest, or a report's folder."
    ),
]


def compare(
    context: typer.Context,
    run_a: Run,
    run_b: Run,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write this page, with all measures and the curves.")
    ] = None,
) -> None:
    """What differs between two runs: settings, scores on the same questions, curves."""
    from flows.comparing import compare_runs

    with one_line_errors():
        found = compare_runs(open_store(), run_a, run_b)
        _print(found)
        if html is not None:
            from tasks.report.comparison_page import comparison_page

            os.umask(context.obj)  # the page is for others to read, unlike the store
            html.write_text(comparison_page(found))
            say(f"wrote {html}")


def _print(found: Comparison) -> None:
    from tasks.recipe import title

    say(f"{len(found.same)} artifacts are the same in both")
    for sentence in found.only:
        say(sentence)
    if found.settings:
        cells = [[line.node, line.setting, line.one or "–", line.other or "–"] for line in found.settings]
        print_table(["node", "setting", found.one, found.other], cells)
    else:
        say("no setting differs")
    for warning in found.warnings:
        complain(f"warning: {warning}")
    if not found.scores:
        say("no checkpoint was evaluated apart in both")
        return
    rows = [
        [title(score.node), score.head, score.value(score.one), score.value(score.other),
         f"{'*' if score.clear else ' '} {score.value(score.difference.value, '+')}", score.interval,
         f"{score.difference.p_value:.3f}", str(score.difference.questions)]
        for score in found.scores
    ]  # fmt: skip
    columns = [
        "checkpoint",
        "measure",
        found.one,
        found.other,
        "difference",
        "95% interval",
        "p",
        "questions",
    ]
    print_table(columns, rows, right=(*columns[2:5], *columns[6:]))
    say(f"differences are {found.other} minus {found.one}, on the questions that both answered; * where the "
        "interval does not hold zero")  # fmt: skip


COMMANDS = (compare,)
