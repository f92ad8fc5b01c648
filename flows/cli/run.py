"""Starting, watching and stopping work: up, run, down."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from flows.cli.shared import Preset, complain, load_pipeline, one_line_errors, open_store, say

if TYPE_CHECKING:
    from flows.graph import Pipeline
    from flows.live import Walk

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


def run(preset: Preset = "tiny") -> None:
    """Run the whole recipe and watch it; what the store has is reused."""
    from flows import api, services

    with one_line_errors():
        pipeline = load_pipeline(preset)
        open_store().backend.check()
        services.up(say)
        flow_run = api.active_run("r1-full-pipeline", preset)
        if flow_run:
            say(f"a run of {preset} is under way: watching it")
        else:
            say(f"$ {api.shown('r1-full-pipeline', {'preset': preset})}")
            flow_run = api.submit("r1-full-pipeline", {"preset": preset})
        watch(flow_run, pipeline.walk)
        _show_result(pipeline)


def down() -> None:
    """Stop the server, the workers and every run and job; the store and unfinished work stay."""
    from flows import services

    with one_line_errors():
        say(f"stopped {services.down()} processes")


def watch(flow_run: str, walk: Walk) -> None:
    """Follow a run that makes the nodes of `walk`; exits with its exit code unless it completed."""
    import httpx
    from rich.console import Console

    from flows import live, services

    say(f"{services.ui_url()}/runs/flow-run/{flow_run}")
    say_how_to_log_in()
    try:
        outcome = live.watch(flow_run, walk, open_store(), Console())
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

    store = open_store()
    report = store.fetch(store.resolve("report", pipeline.name))
    console = Console(width=max(Console().width, _RESULT_WIDTH))
    console.print(to_rich(load_stage_rows({"report": report})))
    say(f"report: {os.path.relpath(report / 'report.html')}")
    say(f"Prefect: {services.ui_url()}   (`make down` stops it)")


COMMANDS = (up, run, down)
