"""What `r1 serve` and `r1 chat` need beside the model server: a model by any name, key, judge. No Prefect.

The key is the installation's own, `.r1/api-key`, readable by its user alone. It is not the string that opens
the Prefect server: whoever has that one can run commands, and this one goes into the settings of clients.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from artifacts.checks import first_reason
from artifacts.errors import StoreError
from artifacts.store import ArtifactStore
from flows import paths
from flows.server_auth import secret_in
from tasks.base.folder import MAX_CONFIG, UnusableBase, check_config, check_folder
from tasks.job import Job
from tasks.kinds import Kind
from tasks.language_models.settings import Checkpoint, Endpoint, ModelSettings, StandIn, require_known
from tasks.presets import PresetError, preset_name

if TYPE_CHECKING:
    from tasks.serving.model_server import ModelServer
    from tasks.serving.proxy import Proxy
    from tasks.serving.risk_control import RiskControl

_HUB_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
"""What is fetched of a hub model: no pickled weights and no code."""
_LOOK_SECONDS = 0.5
_CLOSE_SECONDS = 3
"""How long answers under way may take when the server is asked to end."""


@dataclass(frozen=True)
class FoundModel:
    """A model folder, and what it is called."""

    name: str
    folder: Path


def find_model(store: ArtifactStore, asked: str, preset: str, revision: str = "main") -> FoundModel:
    """The checkpoint of the store, the folder or the hub model that `asked` names, looked for in this order.

    Raises:
        PresetError: there is none, or it is no model that can be loaded.
    """
    path = Path(asked).expanduser()
    try:
        ref = store.resolve(asked, preset_name(preset))
    except StoreError as error:
        if path.is_dir():
            return _in_folder(path)
        if _HUB_NAME.fullmatch(asked) and not asked.startswith("."):
            return _on_hub(asked, revision, str(error))
        raise PresetError(f"{error}; and no folder is called so") from None
    if ref.kind != Kind.checkpoint:
        raise PresetError(f"{asked} is a {ref.kind}: name a checkpoint")
    folder = store.fetch(ref) / "model"
    if not (folder / "config.json").is_file():
        raise PresetError(f"artifact {ref.short} holds no model: name a checkpoint that this release made")
    return FoundModel(asked if "/" in asked else f"{preset_name(preset)}/{asked}", folder)


def _in_folder(path: Path) -> FoundModel:
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    try:
        check_folder(folder)
    except UnusableBase as error:
        raise PresetError(f"{folder}: {error}") from None
    return FoundModel(path.resolve().name, folder)


def _on_hub(name: str, revision: str, unknown: str) -> FoundModel:
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        # Before the weights: a configuration may name kernels, which are code, and absurd sizes.
        config = Path(hf_hub_download(name, "config.json", revision=revision))
        check_config(json.loads(config.read_bytes()[:MAX_CONFIG]))
        return FoundModel(name, Path(snapshot_download(name, revision=revision, allow_patterns=_FILES)))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise PresetError(
            f"{unknown}; no folder is called so; and the hub has it not, or is out of reach ({reason})"
        ) from None


def key_file() -> Path:
    return paths.home() / "api-key"


def installation_key() -> str:
    """What clients of this installation's model server send; made at the first call."""
    return secret_in(key_file(), "r1-")


@contextmanager
def risk_control(
    store: ArtifactStore, judge: str, keywords: Path | None
) -> Iterator[tuple[RiskControl, int]]:
    """The risk control with the judge of a YAML text, and how many reviews may run at once.

    Raises:
        PresetError: settings or keywords that cannot be used, or an API key that is not set.
    """
    from tasks.language_models.chat import ModelLost
    from tasks.language_models.opening import open_model
    from tasks.serving.risk_control import (
        KEYWORDS,
        STAND_INS,
        KeywordFileError,
        KeywordFilter,
        RiskControl,
        judge_by_keywords,
    )

    settings = judge_settings(store, judge)
    job = Job(node="risk-control", stage="serve", inputs={}, folder=paths.work_root() / "serve")
    try:
        require_known("--judge", settings, STAND_INS)
        found = KeywordFilter.of_file(keywords or KEYWORDS)
        model = open_model(settings, job, {"keywords": judge_by_keywords})
    except (KeywordFileError, ModelLost, ValueError) as error:
        raise PresetError(str(error)) from None
    assert model is not None  # `none` is not known
    try:
        # A checkpoint's engine serves one caller; a server batches what it gets.
        yield RiskControl(found, model), settings.concurrency if isinstance(settings, Endpoint) else 1
    finally:
        job.stop.set()
        model.close()
        for kept in job.kept.values():
            kept.close()


def judge_settings(store: ArtifactStore, text: str) -> Endpoint | Checkpoint | StandIn:
    """The language model that a YAML text names; a checkpoint may be called by its name in the store.

    Raises:
        PresetError: one line.
    """
    try:
        document: Any = yaml.safe_load(text)
        if isinstance(document, dict) and document.get("name") == "checkpoint":
            ref = store.resolve(str(document.get("artifact", "")), "tiny")
            document = {**document, "artifact": ref.digest}
        settings: Endpoint | Checkpoint | StandIn = TypeAdapter(ModelSettings).validate_python(document)
    except yaml.YAMLError:
        raise PresetError(f"--judge {text[:60]!r} is not YAML: quote it") from None
    except ValidationError as error:
        raise PresetError(f"--judge: {first_reason(error)}") from None
    except StoreError as error:
        raise PresetError(f"--judge: {error}") from None
    return settings


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """A socket at this port of loopback; at any free one for port 0.

    Raises:
        PresetError: the port is taken.
    """
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", port))
        except OSError as error:
            raise PresetError(f"--port {port}: {error.strerror}: choose another one, or 0 for any") from None
        yield taken


def run_proxy(proxy: Proxy, place: socket.socket, server: ModelServer, ready: Callable[[], None]) -> None:
    """Answer clients until the command is stopped.

    Raises:
        ServerFailed: the model server ended.
    """
    import uvicorn

    from tasks.supervise import trees

    config = uvicorn.Config(
        proxy.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=_CLOSE_SECONDS
    )
    serving, over = uvicorn.Server(config), threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            serving.should_exit = serving.should_exit or trees.has_ended(server.process)

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        place.listen()  # whoever is told the address may connect at once, and uvicorn takes a while to begin
        ready()
        serving.run(sockets=[place])
    finally:
        over.set()
        watching.join()
    server.require()
