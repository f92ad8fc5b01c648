"""Runs a preset's recipe on this machine without a Prefect server, one job after another:

    python -m flows.local smollm2-135m                  the whole recipe, reusing what the store has
    python -m flows.local smollm2-135m --until dev2     up to a node

It takes `--set`, `--skip`, `--use` and `--name` as `r1 run` does. The jobs, keys, names and store are those
of `r1 run`, so either goes on where the other stopped. For machines on which no server can run or be reached:
a batch job of a cluster (Slurm), a rented GPU without a network. It prints a line a node and, at the end, the
seconds of the jobs and of the clock. There are no retries over machines, no pools and no pages; a killed run
is started again by the same command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing

import typer

from flows import feasible, paths
from flows.cli.shared import (
    Name,
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
from flows.graph import Pipeline
from flows.local_builder import LocalBuilder
from flows.runner import JobFailed, job_environment
from tasks.presets import PresetError
from tasks.rollout.settings import EngineSettings
from tasks.supervise.spares import SpareProcesses


def _uses_a_gpu(pipeline: Pipeline) -> bool:
    """Whether a node samples with an engine that needs one: its imports are the slow ones."""
    engines = (getattr(node.config, "engine", None) for node in pipeline.nodes.values())
    return any(isinstance(e, EngineSettings) and e.entry.needs_gpu for e in engines)


def main(
    preset: str,
    set_: Set = None,
    skip: Skip = None,
    use: Use = None,
    until: Until = "",
    name: Name = "",
) -> None:
    """Run the recipe of PRESET here, without a server; `--until NODE` ends after that node."""
    begun = time.monotonic()
    with one_line_errors():
        pipeline = load_pipeline(preset, asked_variant(set_, skip, use, until, name))
        builder = LocalBuilder(pipeline, store := open_store(), say)
        if objections := feasible.objections(pipeline, store):
            raise PresetError("; ".join(objections))
        say_departures(pipeline)
        with ExitStack() as stack:
            if _uses_a_gpu(pipeline):
                spare = stack.enter_context(closing(SpareProcesses(job_environment(), paths.log("spare"))))
                builder.start_on_gpu = spare.start
            try:
                pipeline.walk(builder)
            except JobFailed as error:
                complain(str(error))
                raise typer.Exit(1) from None
    say(f"{builder.job_seconds:.0f} s in jobs, {time.monotonic() - begun:.0f} s in all")


def command(arguments: Sequence[str] | None = None) -> None:
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(arguments)


if __name__ == "__main__":
    command()
