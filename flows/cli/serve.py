"""Using a trained model: serve it to programs, talk to it in the terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.shared import Preset, complain, one_line_errors, open_store, say

if TYPE_CHECKING:
    from tasks.serving.model_server import ModelServer
    from tasks.serving.proxy import ChatTurn, Upstream

Model = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="An artifact's name or digest, a folder, or a hub model.")
]
Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="[-- VLLM OPTIONS]", help="Such as `-- --tensor-parallel-size=4`."),
]
Engine = Annotated[str, typer.Option(help="vllm or transformers; by default vllm where there is a GPU.")]
Template = Annotated[
    str, typer.Option(help="r1, plain, chat or a text with {question}; by default the model's own.")
]
Revision = Annotated[str, typer.Option(help="Of a hub model.")]


def serve(
    checkpoint: Model,
    options: Options = None,
    preset: Preset = "tiny",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of loopback; 0: any free one.")] = 8000,
    engine: Engine = "",
    template: Template = "",
    revision: Revision = "main",
    risk_control: Annotated[
        bool, typer.Option("--risk-control", help="Review flagged dialogues before they are shown.")
    ] = False,
    judge: Annotated[
        str,
        typer.Option(help="Who reviews: `{name: endpoint, url: ..., model: ...}`, `{name: checkpoint, "
                          "artifact: ...}`, or the rule `keywords`."),
    ] = "",
    keywords: Annotated[Path | None, typer.Option(help="A file of risk keywords of your own.")] = None,
) -> None:  # fmt: skip
    """Serve a model by OpenAI's interface on this machine, behind the installation's key."""
    from flows import serving
    from tasks.presets import PresetError
    from tasks.serving.proxy import Proxy

    with one_line_errors(), _stopped_cleanly(), ExitStack() as stack:
        if risk_control != bool(judge) or (keywords and not risk_control):
            raise PresetError("--risk-control needs --judge, and --judge and --keywords need --risk-control")
        store = open_store()
        control, at_once = (
            stack.enter_context(serving.risk_control(store, judge, keywords)) if risk_control else (None, 1)
        )
        place = stack.enter_context(serving.listening(port))
        server = stack.enter_context(_started(checkpoint, preset, engine, template, revision, options or []))
        proxy = Proxy(server.model.name, _upstream(server), serving.installation_key(), control, say, at_once)
        address = f"http://127.0.0.1:{place.getsockname()[1]}/v1"

        def ready() -> None:
            say(f"{server.model.name} is served by {server.engine} at {address}")
            say(f"clients send the key that is in {os.path.relpath(serving.key_file())}; Ctrl-C stops it")

        with _model_failures():
            serving.run_proxy(proxy, place, server, ready)


def chat(
    checkpoint: Model,
    options: Options = None,
    preset: Preset = "tiny",
    engine: Engine = "",
    template: Template = "",
    revision: Revision = "main",
) -> None:
    """Talk to a model in the terminal: its thinking is dimmed; /reset forgets, /exit ends."""
    with (
        one_line_errors(),
        _stopped_cleanly(),
        _started(checkpoint, preset, engine, template, revision, options or []) as server,
        _model_failures(),
    ):
        say(f"{server.model.name}: /reset forgets the dialogue, /exit ends")
        _talk(server)


def _talk(server: ModelServer) -> None:
    from tasks.serving.proxy import ChatTurn

    upstream, dialogue = _upstream(server), list[ChatTurn]()
    with asyncio.Runner() as runner:
        for line in _lines():
            if line == "/reset":
                dialogue.clear()
                say("the dialogue is forgotten")
                continue
            dialogue.append(ChatTurn(role="user", content=line))
            try:
                answer = runner.run(_answered(upstream, dialogue))
            except KeyboardInterrupt:  # ends the answer and not the chat
                typer.echo()
                dialogue.pop()
                continue
            if answer is None:
                server.require()
                dialogue.pop()
            else:
                dialogue.append(ChatTurn(role="assistant", content=answer))
        runner.run(upstream.client.aclose())


def _lines() -> Iterator[str]:
    """What the user types, up to /exit or the end of the input."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        except UnicodeDecodeError:
            complain("that line is not UTF-8: type it again")
            continue
        if line == "/exit":
            return
        if line:
            yield line


async def _answered(upstream: Upstream, dialogue: list[ChatTurn]) -> str | None:
    """Show an answer as it comes; its text without the thinking, or None where there was none."""
    from tasks.serving.proxy import ChatBody, Refusal
    from tasks.text_safety import for_page

    body = ChatBody(messages=dialogue, temperature=0.6, top_p=0.95)
    thinking, content = False, ""
    try:
        async for chunk in upstream.stream(body):
            for delta in (choice["delta"] for choice in chunk.get("choices", [])):
                if text := delta.get("reasoning_content"):
                    thinking = True
                    typer.secho(for_page(text), dim=True, nl=False)
                if text := delta.get("content"):
                    typer.echo("\n\n" if thinking and not content else "", nl=False)
                    typer.echo(for_page(text), nl=False)
                    content += text
                sys.stdout.flush()
    except Refusal as refusal:
        complain(str(refusal))
        return None
    typer.echo("\n")
    return content


@contextmanager
def _started(
    checkpoint: str, preset: str, engine: str, template: str, revision: str, options: list[str]
) -> Iterator[ModelServer]:
    from flows import doctor, paths, serving
    from tasks.presets import PresetError
    from tasks.rendering import known_template
    from tasks.serving.model_server import ServerKind, default_engine, model_server

    if engine and engine not in list(ServerKind):
        raise PresetError(f"--engine {engine!r}: use {' or '.join(ServerKind)}")
    try:
        template = known_template(template) if template else ""
    except ValueError as error:
        raise PresetError(f"--template: {error}") from None
    found = serving.find_model(open_store(), checkpoint, preset, revision)
    chosen = ServerKind(engine) if engine else default_engine(bool(doctor.gpu_names()))
    if options and chosen is not ServerKind.vllm:
        raise PresetError(f"{options[0]}: only vllm takes more options, and {chosen} serves here")
    say(f"starting {chosen} with {found.name}")
    with ExitStack() as stack:
        with _model_failures():
            server = stack.enter_context(
                model_server(found.folder, found.name, chosen, paths.log("serve"), template, options)
            )
        yield server


def _upstream(server: ModelServer) -> Upstream:
    from tasks.serving.proxy import Upstream

    model = server.model
    return Upstream(
        server.client(), server.called, model.opens_thinking, server.takes_thinking_out, model.plain
    )


@contextmanager
def _model_failures() -> Iterator[None]:
    """A model that cannot be served, or a server that ended, as one line."""
    from tasks.serving.model_server import ServerFailed

    try:
        yield
    except ServerFailed as error:
        complain(str(error))
        raise typer.Exit(1) from None


@contextmanager
def _stopped_cleanly() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C, so that what it started is stopped and cleared away."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


COMMANDS = (serve, chat)
