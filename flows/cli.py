"""The `r1` command.

    r1 run --preset tiny       everything: server, workers, the pipeline, its table and report
    r1 plan --preset tiny      what a run would do, and why
    r1 estimate --preset tiny  what its RL stages will cost
    r1 doctor --preset tiny    whether this machine can
    r1 down                    stop what was started
    r1 ls | show | lineage | verify | gc | sql | export    the store
    r1 trust on | off | list | add | remove | sign         whose artifacts count in a shared store

Exit codes: 0 done, 1 failed, 2 bad input or something missing, 130 interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from flows import store_commands, trust_commands

if TYPE_CHECKING:
    from artifacts.store import ArtifactStore
    from flows.graph import Pipeline

app = typer.Typer(
    help="The DeepSeek-R1 recipe as a cached, restartable workflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_TABLE_WIDTH = 110

Preset = Annotated[str, typer.Option(help="A name from configs/, or the path of a YAML file.")]


def main() -> None:
    """The console script."""
    store_commands.register(app)
    trust_commands.register(app)
    app()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Bad input and things that are missing: one sentence, exit code 2."""
    from artifacts.errors import StoreError
    from flows.remedies import explained
    from flows.services import ServiceError
    from tasks.presets import PresetError

    try:
        yield
    except (PresetError, ServiceError, StoreError) as error:
        text = explained(error) if isinstance(error, StoreError) else error
        typer.echo(f"r1: {text}", err=True)
        raise typer.Exit(2) from None


def _say(text: str) -> None:
    typer.echo(f"r1: {text}")


@app.command()
def up() -> None:
    """Start the local Prefect server and workers; what runs already is left alone."""
    from flows import services

    with _one_line_errors():
        services.up(_say)
        _say(f"Prefect is at {services.ui_url()}")


@app.command()
def down() -> None:
    """Stop the server, the workers and every run and job; the store and unfinished work stay."""
    from flows import services

    _say(f"stopped {services.down()} processes")


@app.command()
def plan(preset: Preset = "tiny") -> None:
    """Each stage: its key, whether the store has it, and if not, why."""
    from rich.text import Text

    from flows.plan import plan as planned

    with _one_line_errors():
        rows = planned(_pipeline(preset), _store())
    hit, miss = Text("hit", "cyan"), Text("miss", "yellow")
    cells: list[list[str | Text]] = [
        [row.node, row.stage, row.pool, (row.key or "")[:12], hit if row.hit else miss, row.outcome]
        for row in rows
    ]
    store_commands.print_table(["node", "stage", "pool", "key", "", "why"], cells)
    typer.echo(f"{sum(row.hit for row in rows)} of {len(rows)} nodes would be reused")


@app.command()
def estimate(preset: Preset = "tiny") -> None:
    """Tokens, steps, memory and hours of the RL stages, from three real steps of each."""
    from flows import estimate as estimates

    with _one_line_errors():
        _say("running three steps of each RL stage on its base")
        rows = estimates.estimate(_pipeline(preset), _store())
    store_commands.print_table(list(estimates.COLUMNS), [estimates.cells(row) for row in rows])
    typer.echo(
        "`hours` at the length the base writes now, `at most` were every completion as long as allowed"
    )


@app.command()
def doctor(preset: Preset = "tiny") -> None:
    """Check versions, GPU, memory, disk, hub and sandbox against a preset."""
    from rich.text import Text

    from flows.doctor import examine

    with _one_line_errors():
        findings = examine(_pipeline(preset))
    good, bad = Text("ok", "green"), Text("problem", "red")
    rows: list[list[str | Text]] = [[good if f.ok else bad, f.what, f.state, f.remedy] for f in findings]
    store_commands.print_table([""] * 4, rows)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


@app.command()
def run(preset: Preset = "tiny") -> None:
    """Run the whole recipe and watch it; what the store has is reused."""
    from flows import api, services

    with _one_line_errors():
        pipeline = _pipeline(preset)
        services.up(_say)
        flow_run = api.active_run("r1-full-pipeline", preset)
        if flow_run:
            _say(f"a run of {preset} is under way: watching it")
        else:
            _say(f"$ {api.shown('r1-full-pipeline', {'preset': preset})}")
            flow_run = api.submit("r1-full-pipeline", {"preset": preset})
        _watch(flow_run)
        _show_result(pipeline)


@app.command()
def distill(
    student: Annotated[str, typer.Argument(help="A name from configs/students, or the path of a YAML file.")],
    preset: Annotated[str, typer.Option(help="Whose mixture to learn from.")] = "",
) -> None:
    """Fine-tune one student on the newest mixture."""
    from flows import api, distillation, services

    with _one_line_errors():
        settings = distillation.settle(student, preset, _store())
        typer.echo(settings.describe())
        if settings.missing or settings.mixture is None:
            raise services.ServiceError(f"cannot distill {student} now: {settings.missing}")
        services.up(_say)
        parameters = {"preset": settings.preset, "student": student, "dataset": settings.mixture.digest}
        _say(f"$ {api.shown('distill', parameters)}")
        _watch(api.submit("distill", parameters))
        _say(f"`r1 show {settings.ref_name}` tells what was made, `r1 export` writes it as a model folder")


def _watch(flow_run: str) -> None:
    """Follow a run; leaves with its exit code unless it completed."""
    import httpx
    from rich.console import Console

    from flows import live, services

    _say(f"{services.ui_url()}/runs/flow-run/{flow_run}")
    try:
        outcome = live.watch(flow_run, Console())
    except KeyboardInterrupt:
        _say(f"the run goes on; `r1 run` watches it again, `prefect flow-run cancel {flow_run}` ends it")
        raise typer.Exit(130) from None
    except httpx.HTTPError:
        raise services.ServiceError(
            "the Prefect server is gone: `r1 run` goes on from what is finished"
        ) from None
    if not outcome.completed:
        typer.echo(f"r1: the run ended {outcome.state}: {outcome.reason}", err=True)
        raise typer.Exit(1)
    if outcome.status:
        reused = live.count(outcome.status, {"cached"})
        _say(f"{reused} of {len(outcome.status.nodes)} nodes were reused")


def _show_result(pipeline: Pipeline) -> None:
    from rich.console import Console

    from flows import services
    from tasks.report.tables import load_stage_rows, to_rich

    store = _store()
    report = store.fetch(store.resolve("report", pipeline.name))
    console = Console(width=max(Console().width, _TABLE_WIDTH))
    console.print(to_rich(load_stage_rows({"report": report})))
    _say(f"report: {os.path.relpath(report / 'report.html')}")
    _say(f"Prefect: {services.ui_url()}   (`make down` stops it)")


def _pipeline(preset: str) -> Pipeline:
    from flows.graph import load_pipeline

    return load_pipeline(preset)


def _store() -> ArtifactStore:
    from artifacts.store import ArtifactStore

    return ArtifactStore.open()


if __name__ == "__main__":
    main()
