"""What would happen, without doing it: plan, estimate, doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.shared import (
    Name,
    Preset,
    Set,
    Skip,
    Until,
    Use,
    asked_variant,
    complain,
    load_pipeline,
    one_line_errors,
    open_store,
    print_table,
    say,
    say_departures,
)

if TYPE_CHECKING:
    from rich.text import Text


def plan(
    preset: Preset = "tiny",
    set_: Set = None,
    skip: Skip = None,
    use: Use = None,
    until: Until = "",
    name: Name = "",
) -> None:
    """Each stage: its key, whether the store has it, and if not, why. Exit code 1 where it cannot work."""
    from rich.text import Text

    from flows import feasible
    from flows import plan as planning
    from flows.doctor import moving_bases

    with one_line_errors():
        pipeline = load_pipeline(preset, asked_variant(set_, skip, use, until, name))
        rows = planning.plan(pipeline, store := open_store())
        objections = feasible.objections(pipeline, store)
    hit, miss = Text("hit", "cyan"), Text("miss", "yellow")
    cells: list[list[str | Text]] = [
        [row.node, row.stage, row.pool, (row.key or "")[:12], hit if row.hit else miss, row.outcome]
        for row in rows
    ]
    print_table(["node", "stage", "pool", "key", "", "why"], cells)
    say_departures(pipeline)
    if pipeline.name != preset:
        say(f"what it makes is called {pipeline.name}/NODE")
    for line in planning.code_warnings(rows):
        say(line)
    typer.echo(f"{sum(row.hit for row in rows)} of {len(rows)} nodes would be reused")
    for moving in moving_bases(pipeline):
        say(f"{moving}: set base.revision to a commit")
    for objection in objections:
        complain(f"this cannot work: {objection}")
    raise typer.Exit(1 if objections else 0)


def estimate(
    preset: Preset = "tiny",
    fits: Annotated[bool, typer.Option("--fits", help="Only what fits which machine: runs nothing.")] = False,
) -> None:
    """What fine-tuning fits which machine; and tokens, steps, memory and hours of the RL stages, from three
    real steps of each."""
    from flows import estimate as estimates
    from flows import fitting

    with one_line_errors():
        pipeline = load_pipeline(preset)
        found = fitting.fits(pipeline) + fitting.student_fits()
        print_table(fitting.COLUMNS, [fit.cells() for fit in found if isinstance(fit, fitting.Fit)])
        for sentence in (fit for fit in found if isinstance(fit, str)):
            say(sentence)
        typer.echo("GiB a card, weights and optimiser shared out; `no`: it does not fit")
        if fits:
            return
        say("running three steps of each RL stage on its base")
        rows = estimates.estimate(pipeline, open_store())
    print_table(estimates.COLUMNS, [estimates.cells(row) for row in rows])
    typer.echo(
        "`hours` at the length the base writes now, `at most` if every completion were as long as allowed"
    )


def doctor(preset: Preset = "tiny") -> None:
    """Check versions, GPU, memory, disk, hub and sandbox against a preset."""
    from rich.text import Text

    from flows.doctor import examine

    with one_line_errors():
        checks = examine(load_pipeline(preset))
    good, bad = Text("ok", "green"), Text("problem", "red")
    rows: list[list[str | Text]] = [
        [good if check.ok else bad, check.what, check.state, check.remedy] for check in checks
    ]
    print_table([""] * 4, rows)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


COMMANDS = (plan, estimate, doctor)
