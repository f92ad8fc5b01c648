"""Bring an artifact of one's own: import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import Preset, load_pipeline, one_line_errors, open_store, say


def import_(
    folder: Annotated[Path, typer.Argument(help="A model folder, or a Parquet file.")],
    node: Annotated[str, typer.Option("--as", help="The node that it can stand for, such as dev1.")],
    preset: Preset = "tiny",
    name: Annotated[str, typer.Option("--name", help="Call it PRESET/NODE@NAME.")] = "",
) -> None:
    """Check a checkpoint or table of your own and put it into the store, for `--use`."""
    from flows.importing import import_artifact

    with one_line_errors():
        ref_name, ref = import_artifact(open_store(), load_pipeline(preset), folder, node, name)
    say(f"{ref_name} is {ref.kind} {ref.short}")
    say(
        f"`r1 run --preset {preset} --use {ref_name.partition('/')[2].partition('@')[0]}={ref_name}` takes it"
    )


COMMANDS = ((import_, "import"),)
