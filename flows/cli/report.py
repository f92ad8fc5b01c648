"""Looking at a run: where its report lies, and the live page of one in progress."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    load_pipeline,
    one_line_errors,
    open_store,
    say,
)

if TYPE_CHECKING:
    from flows.graph import Pipeline

Port = Annotated[int, typer.Option(help="Where the live page listens, on loopback only; 0: any free port.")]
DEFAULT_PORT = 4300


def report(
    preset: Preset = "tiny",
    set_: Set = None,
    skip: Skip = None,
    use: Use = None,
    until: Until = "",
    name: Name = "",
    live: Annotated[
        bool, typer.Option("--live", help="Serve a page of the run while it goes on, until Ctrl-C.")
    ] = False,
    port: Port = DEFAULT_PORT,
) -> None:
    """Say where the report of a preset's newest run lies; `--live`: a page of the run that goes on."""
    with one_line_errors():
        pipeline = load_pipeline(preset, asked_variant(set_, skip, use, until, name))
        if not live:
            store = open_store()
            folder = store.fetch(store.resolve("report", pipeline.name))
            say(f"report: {os.path.relpath(folder / 'report.html')}")
            return
        with live_page(pipeline, port):
            say("Ctrl-C ends the page; the run does not notice")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                return


@contextmanager
def live_page(pipeline: Pipeline, port: int) -> Iterator[None]:
    """Serve the page of a pipeline's run for as long as the context is open, and say where."""
    from flows import live_page, server_auth
    from flows.live_state import LiveRun

    with live_page.served(LiveRun(pipeline, open_store()), server_auth.secret(), port) as url:
        string = os.path.relpath(server_auth.secret_file())
        say(f"live page: {url} (it asks once for user and password: they are in {string}, as USER:PASSWORD)")
        yield


COMMANDS = (report,)
