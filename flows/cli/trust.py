"""The `r1 trust` commands: whose artifacts count in a shared store.

    r1 trust on            only artifacts that this installation or a trusted key signed are used
    r1 trust off           every artifact whose bytes are right is used (the default)
    r1 trust list          the own public key, to give to others, and the keys that are trusted
    r1 trust add KEY NAME  trust what KEY signs
    r1 trust remove NAME   trust it no longer
    r1 trust sign NAME     sign an artifact that was made before there was a key

The key and the list lie in `$R1_HOME/trust` (`.r1/trust`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.shared import one_line_errors, open_store, show

if TYPE_CHECKING:
    from artifacts.trust import Trust

commands = typer.Typer(help="Choose whose artifacts are used from a shared store.", no_args_is_help=True)
Named = Annotated[str, typer.Argument(help="A label, or the public key itself.")]


@commands.command("list")
def list_() -> None:
    """Show whether trust is required, the own public key, and the keys that are trusted."""
    with one_line_errors():
        _show(_trust())


@commands.command()
def on() -> None:
    """Use only artifacts that were signed here or by a trusted key; sign what is made from now on."""
    with one_line_errors():
        _show(_trust().turn(required=True))


@commands.command()
def off() -> None:
    """Use every artifact whose bytes are as published; what is made is still signed."""
    with one_line_errors():
        _show(_trust().turn(required=False))


@commands.command()
def add(
    public_key: Annotated[str, typer.Argument(help="64 hexadecimal digits: `r1 trust list` there shows it.")],
    label: Annotated[str, typer.Argument(help="What you call its owner.")],
) -> None:
    """Trust the artifacts that a key signs."""
    with one_line_errors():
        _show(_trust().add(public_key, label))


@commands.command()
def remove(key: Named) -> None:
    """Trust a key no longer."""
    with one_line_errors():
        _show(_trust().remove(key))


@commands.command()
def sign(
    artifact: Annotated[str, typer.Argument(help="A name, a digest or a unique beginning of it.")],
    preset: Annotated[
        str, typer.Option("--preset", "-p", help="Where plain node names are looked up.")
    ] = "tiny",
) -> None:
    """Vouch for an artifact of the store: verify its bytes, then sign its manifest with the own key."""
    with one_line_errors():
        store = open_store()
        ref = store.resolve(artifact, preset)
        store.sign(ref)
        show(f"signed {ref.kind} {ref.short}")


def _trust() -> Trust:
    from artifacts.trust import Trust, trust_folder

    return Trust.load(trust_folder())


def _show(trust: Trust) -> None:
    show("trust is required" if trust.required else "trust is not required")
    show(f"{trust.public_key() or 'no key yet: `r1 trust on` makes one'}  (this installation)")
    for key, label in sorted(trust.keys.items(), key=lambda item: item[1]):
        show(f"{key}  {label}")
