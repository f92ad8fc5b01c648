"""What the commands share: their common options, one-line errors, and printing."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.text_safety import for_page, for_terminal

if TYPE_CHECKING:
    from rich.text import Text

    from artifacts.store import ArtifactStore
    from flows.experiments import Variant
    from flows.graph import Pipeline

Preset = Annotated[str, typer.Option(help="A name from configs/, or the path of a YAML file.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="NODE.SETTING=VALUE in the place of the preset's; as often as needed."),
]
Skip = Annotated[
    list[str] | None, typer.Option("--skip", help="A node to leave out (several: repeat it, or a,b).")
]
Use = Annotated[
    list[str] | None,
    typer.Option("--use", help="NODE=ARTIFACT: take this artifact in the place of making the node."),
]
Until = Annotated[str, typer.Option("--until", help="The last node; nothing that it does not need is made.")]
Name = Annotated[
    str, typer.Option("--name", help="Call what is made PRESET@NAME/NODE; else it is called by what differs.")
]

_UNFOLDED = 100_000
"""Table width, in characters, where the output is a pipe or a file: no cell is folded there."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn bad input and missing things into one line on stderr and exit code 2."""
    import httpx

    from artifacts.errors import StoreError
    from flows.remedies import explained
    from flows.services import ServiceError, api_url
    from tasks.presets import PresetError

    try:
        yield
    except (PresetError, ServiceError, StoreError) as error:
        complain(explained(error) if isinstance(error, StoreError) else str(error))
        raise typer.Exit(2) from None
    except httpx.TransportError as error:
        said = f" ({error})" if str(error) else ""
        complain(
            f"the Prefect server at {api_url()} does not answer{said}: `r1 up` starts it; then try again"
        )
        raise typer.Exit(2) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f" of {error.filename}" if error.filename else ""
            remedy = "free some space, or set R1_HOME, R1_STORE and R1_WORK to other disks"
            complain(f"the disk{place} is full: {remedy}")
            raise typer.Exit(2) from None
        # A folder that cannot be written, a file in the place of a folder.
        where = f"{error.filename}: " if error.filename else ""
        complain(
            f"{where}{error.strerror or error}: choose a folder that you can write to (R1_HOME, R1_STORE)"
        )
        raise typer.Exit(2) from None


def show(text: str) -> None:
    """Print text of several lines that may hold names or model output."""
    typer.echo(for_page(text))


def say(text: str) -> None:
    """Print one line about what `r1` does."""
    typer.echo(f"r1: {for_terminal(text)}")


def complain(text: str) -> None:
    """Print one line to stderr."""
    typer.echo(f"r1: {for_terminal(text)}", err=True)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], right: tuple[str, ...] = ()
) -> None:
    """Print a table; only its header if there are no rows, and nothing if it has none.

    Cells given as `str` are made safe and are never read as markup. A cell given as `Text` is ours and is
    printed as it is.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows and not any(columns):
        return
    table: Table = Table(show_header=any(columns), box=None, pad_edge=False)
    for column in columns:
        header = Text(for_terminal(column))
        table.add_column(header, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(for_terminal(cell)) for cell in row))
    console = Console()
    (console if console.is_terminal else Console(width=_UNFOLDED)).print(table)


def load_pipeline(preset: str, variant: Variant | None = None) -> Pipeline:
    """The checked preset as a graph."""
    from flows import graph

    return graph.load_pipeline(preset, variant=variant)


def asked_variant(
    changes: list[str] | None, skip: list[str] | None, use: list[str] | None, until: str, name: str
) -> Variant:
    """What the options ask to be different from the preset."""
    from flows.experiments import Variant, parsed_changes, parsed_uses

    skipped = [node for text in skip or [] for node in text.split(",") if node]
    return Variant(parsed_changes(changes or []), skipped, parsed_uses(use or []), until, name)


def say_departures(pipeline: Pipeline) -> None:
    """Say what of the recipe is left out or comes from elsewhere, and which names have changed."""
    for sentence in (*pipeline.hints, *pipeline.wired.departures):
        say(sentence)


def scope_of(preset: str) -> str:
    """What the names of a preset's artifacts begin with; `tiny@lower-lr`, an experiment, is that already."""
    from tasks.presets import preset_name

    return preset_name(preset)


def open_store() -> ArtifactStore:
    """The store of `$R1_STORE`."""
    from artifacts.store import ArtifactStore

    store = ArtifactStore.open()
    store.require_folder()
    return store
