"""The server of a model behind the proxy: vLLM, or `transformers serve` where there is no GPU.

It listens on a Unix socket in a folder that only this user can enter, so nobody can go around the proxy, its
key and its risk control. It lives as long as the process that started it (`guard.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

import httpx

from tasks.rendering import any_of, spaced
from tasks.supervise import trees


class ServerKind(StrEnum):
    """Whose server it is."""

    vllm = "vllm"
    transformers = "transformers"


_START_SECONDS = 1_800.0
"""Longest start; vLLM compiles, and a large model is read from a slow disk."""
_STOP_SECONDS = 15.0
_LOOK_SECONDS = 0.2
_LONGEST_SOCKET = 100
"""Bytes of a socket's path; Linux takes 107."""


class ServerFailed(RuntimeError):
    """The model server did not start, or ended; one line with the reason."""


@dataclass(frozen=True)
class ServedModel:
    """A folder that can be served (`folder.py`)."""

    name: str
    """What clients call the model."""
    folder: str
    opens_thinking: bool
    """Whether every prompt ends in `<think>`, so that answers begin inside the thinking."""
    tags_are_tokens: bool
    """Whether `<think>` and `</think>` are single tokens, which vLLM's reasoning parser needs."""
    special_names: tuple[str, ...] = ()

    def plain(self, text: str) -> str:
        """A client's text, in which what looks like a special token does not become one."""
        return spaced(text, any_of(self.special_names))


@dataclass(frozen=True)
class ModelServer:
    """A server that answers."""

    model: ServedModel
    engine: ServerKind
    socket: Path
    process: subprocess.Popen[bytes]
    log: Path

    def require(self) -> None:
        """Raises ServerFailed where it has ended."""
        if trees.has_ended(self.process):
            raise ServerFailed(
                f"the model server {trees.death(trees.exit_code(self.process))}: "
                f"{_last_line(self.log.read_text(errors='replace')) or 'it wrote nothing'} (log: {self.log})"
            )

    @property
    def called(self) -> str:
        """What the server itself calls the model."""
        return self.model.name if self.engine is ServerKind.vllm else self.model.folder

    @property
    def takes_thinking_out(self) -> bool:
        """Whether its answers have the thinking apart already."""
        return self.engine is ServerKind.vllm and self.model.tags_are_tokens

    def client(self) -> httpx.AsyncClient:
        """Asks it; no time limit, since an answer may think for long."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        return httpx.AsyncClient(transport=transport, base_url="http://model", timeout=None, trust_env=False)


@contextmanager
def model_server(
    source: Path, name: str, engine: ServerKind, log: Path, template: str = "", options: Sequence[str] = ()
) -> Iterator[ModelServer]:
    """Serve the model of a Hugging Face folder; yields when it answers. `options` are more of vLLM's.

    Raises:
        ServerFailed: it did not start, or the folder is none that can be served.
    """
    place = _own_folder()
    try:
        model = _prepared(source, place / "model", name, engine, template)
        socket = place / "socket"
        # The log of this server only: what went wrong earlier would be taken for the reason.
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        guarded = [sys.executable, "-m", "tasks.serving.guard", str(os.getpid()), str(place)]
        process = trees.start_session(
            [*guarded, *command(model, engine, socket, options)], _environment(), log
        )
        try:
            server = ModelServer(model, engine, socket, process, log)
            _wait(server)
            yield server
        finally:
            trees.stop(process, _STOP_SECONDS)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _prepared(source: Path, out: Path, name: str, engine: ServerKind, template: str) -> ServedModel:
    options = [f"--template={template}", *(["--default-limit"] if engine is ServerKind.transformers else [])]
    words = [sys.executable, "-m", "tasks.serving.folder", str(source), str(out), *options, "--", name]
    done = subprocess.run(words, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerFailed(f"{name} cannot be served: {_last_line(done.stderr) or 'no reason was given'}")
    return ServedModel(**json.loads(done.stdout.splitlines()[-1]))


def command(model: ServedModel, engine: ServerKind, socket: Path, options: Sequence[str] = ()) -> list[str]:
    """The command of the server."""
    if engine is ServerKind.transformers:
        module = "tasks.serving.transformers_server"
        return [sys.executable, "-m", module, model.folder, str(socket)]
    # The parser needs the tags as single tokens; for other models the proxy takes the thinking out.
    parser = ["--reasoning-parser", "deepseek_r1"] if model.tags_are_tokens else []
    vllm = str(Path(sys.executable).with_name("vllm"))
    named = ["--served-model-name", model.name]
    return [vllm, "serve", model.folder, *options, *named, "--uds", str(socket), *parser]


def default_engine(gpus: bool) -> ServerKind:
    """vLLM where there is a GPU and it is installed."""
    return ServerKind.vllm if gpus and find_spec("vllm") is not None else ServerKind.transformers


def _environment() -> dict[str, str]:
    quiet = {
        "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    # The folder is whole: nothing has to be asked of the hub.
    return {**os.environ, **quiet, "HF_HUB_OFFLINE": "1", "PYTHONPATH": _python_path()}


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))


def _own_folder() -> Path:
    """A new folder that only this user can enter, with a path that is short enough for a socket."""
    place = Path(tempfile.mkdtemp(prefix="r1-serve-"))
    if len(str(place)) > _LONGEST_SOCKET - len("/socket"):
        place.rmdir()
        place = Path(tempfile.mkdtemp(prefix="r1-serve-", dir="/tmp"))
    return place


def _wait(server: ModelServer) -> None:
    transport = httpx.HTTPTransport(uds=str(server.socket))
    deadline = time.monotonic() + _START_SECONDS
    with httpx.Client(transport=transport, base_url="http://model", trust_env=False) as client:
        while time.monotonic() < deadline:
            server.require()
            try:
                if client.get("/health").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(_LOOK_SECONDS)
    raise ServerFailed(f"the model server did not answer within {_START_SECONDS:.0f} s (log: {server.log})")


def _last_line(text: str) -> str:
    """The last line that says something; of a traceback, the error."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:300]
