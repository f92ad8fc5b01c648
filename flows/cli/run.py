"""Starting, watching and stopping work: up, run, down."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.report import DEFAULT_PORT, Port, live_page
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
    say,
    say_departures,
)

if TYPE_CHECKING:
    from artifacts.store import ArtifactStore
    from flows.graph import Pipeline
    from flows.live import Walk
    from flows.plan import Planned

_RESULT_WIDTH = 110
"""Characters: the smallest width at which the result table is legible, also where the output is a pipe."""


_LITTLE = 2**20
"""Bytes: with less than this a disk counts as full."""


def up() -> None:
    """Start the local Prefect server and workers; what runs already is left alone."""
    from flows import services

    with one_line_errors():
        services.up(say)
        say(f"Prefect is at {services.ui_url()}")
        say_how_to_log_in()


def say_how_to_log_in() -> None:
    """Say where the string lies that the pages of our own server ask for. It is never printed itself."""
    from flows import server_auth, services

    if services.is_ours():
        say(f"its pages ask once for the string that is in {os.path.relpath(server_auth.secret_file())}")


def run(
    preset: Preset = "tiny",
    set_: Set = None,
    skip: Skip = None,
    use: Use = None,
    until: Until = "",
    name: Name = "",
    rebuild: Annotated[
        list[str] | None, typer.Option("--rebuild", help="A node to make again though the store has it.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Serve a page of the run as well: curves, completions.")
    ] = False,
    port: Port = DEFAULT_PORT,
) -> None:
    """Run the whole recipe and watch it; what the store has is reused."""
    from flows import feasible, services
    from flows import plan as planning
    from tasks.presets import PresetError

    with one_line_errors():
        variant = asked_variant(set_, skip, use, until, name)
        pipeline = load_pipeline(preset, variant)
        services.require_checkout()
        store = open_store()
        store.backend.check()
        rows = planning.plan(pipeline, store)
        if objections := feasible.objections(pipeline, store):
            raise PresetError("; ".join(objections))
        say_departures(pipeline)
        again = planning.named_rows(rows, rebuild or [], pipeline)
        for line in planning.code_warnings([row for row in rows if row not in again]):
            say(line)
        with live_page(pipeline, port) if live else nullcontext():
            services.up(say)
            flow_run = _run_of(pipeline.name, {"preset": preset, **variant.parameters()}, again, store)
            watch(flow_run, pipeline.walk, pipeline.name)
        _show_result(pipeline)


def _run_of(name: str, parameters: dict[str, Any], again: list[Planned], store: ArtifactStore) -> str:
    """The flow run to watch: the one under way, or a new one for which the keys of `again` are forgotten."""
    from flows import api
    from tasks.presets import PresetError

    flow_run = api.active_run("r1-full-pipeline", parameters)
    if flow_run and again:
        raise PresetError(f"a run of {name} is under way: --rebuild when it has ended")
    if flow_run:
        say(f"a run of {name} is under way: watching it")
        return flow_run
    for row in again:
        store.forget_key(row.key or "")
        say(f"{row.node} is made again, and with it what depends on it")
    say(f"$ {api.shown('r1-full-pipeline', parameters)}")
    return api.submit("r1-full-pipeline", parameters)


def down() -> None:
    """Stop the server, the workers and every run and job; the store and unfinished work stay."""
    from flows import services

    with one_line_errors():
        say(f"stopped {services.down()} processes")


def watch(flow_run: str, walk: Walk, scope: str) -> None:
    """Follow a run that makes the nodes of `walk`; exits with its exit code unless it completed."""
    import httpx
    from rich.console import Console

    from flows import live, services

    say(f"{services.ui_url()}/runs/flow-run/{flow_run}")
    say_how_to_log_in()
    try:
        outcome = live.watch(flow_run, walk, open_store(), Console(), scope)
    except KeyboardInterrupt:
        say(f"the run goes on; `r1 run` watches it again, `prefect flow-run cancel {flow_run}` ends it")
        raise typer.Exit(130) from None
    except httpx.HTTPError:
        raise services.ServiceError(
            "the Prefect server is gone: `r1 run` goes on from what is finished"
        ) from None
    if not outcome.completed:
        complain(f"the run ended {outcome.state.type}: {outcome.state.reason or 'no reason was given'}")
        complain(_what_next(outcome.state.type))
        raise typer.Exit(1)
    say(f"{outcome.reused} of {outcome.nodes} nodes were reused")


def _what_next(state: str) -> str:
    """How to go on after a run that did not complete."""
    import shutil

    from flows import paths

    for folder in (paths.home(), paths.work_root()):
        if folder.exists() and shutil.disk_usage(folder).free < _LITTLE:
            return f"the disk of {folder} is full: free some space, then `r1 run` goes on"
    again = "`r1 run` goes on from what is finished"
    return f"correct that, then {again}" if state == "FAILED" else again


def _show_result(pipeline: Pipeline) -> None:
    from rich.console import Console

    from flows import services
    from tasks.report.tables import load_stage_rows, to_rich

    if "report" not in pipeline.feeds:
        say(f"`r1 show {pipeline.ref_name(list(pipeline.feeds)[-1])}` tells what was made")
        return
    store = open_store()
    report = store.fetch(store.resolve("report", pipeline.name))
    console = Console(width=max(Console().width, _RESULT_WIDTH))
    console.print(to_rich(load_stage_rows({"report": report})))
    say(f"report: {os.path.relpath(report / 'report.html')}")
    say(f"Prefect: {services.ui_url()}   (`make down` stops it)")


COMMANDS = (up, run, down)
