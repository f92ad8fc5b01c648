"""The string that opens this machine's Prefect server. Imports no Prefect.

Prefect has no user accounts: whoever reaches a server's port can run commands as its workers' user, unless
the server asks for a string. The first start makes one and keeps it in `.r1/prefect-auth`, readable by its
user alone. Everything typed in the repository's folder finds it there (`flows/prefect_plugin.py`); the UI
asks for it once. It is given to no server but the one that runs here: the string and a record of the
server's process and address lie side by side, and only while that very process lives is the string sent.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from flows import paths
from tasks.supervise.records import open_private, read_json, write_json
from tasks.supervise.trees import is_alive

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in _LOOPBACK


def secret_file() -> Path:
    return paths.home() / "prefect-auth"


def server_environment(url: str) -> dict[str, str]:
    """What the server that this process becomes, at `url`, has to run with; notes that it is ours.

    Cross-origin requests are allowed from its own pages only. Prefect 3.7 does not check the host name of
    a request, so a page may reach the server under a name of its own (DNS rebinding); without the string,
    which browsers do not send by themselves, it gets nothing but 401.
    """
    me = psutil.Process()
    _record().parent.mkdir(parents=True, exist_ok=True)
    write_json(_record(), {"pid": me.pid, "created": me.create_time(), "url": url})
    return {
        "PREFECT_SERVER_API_AUTH_STRING": secret(),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url.removesuffix("/api"),
    }


def own_string(url: str) -> str | None:
    """The string of the server at `url` if it is the one that was started here and lives."""
    record = read_json(_record())
    if record is None or record["url"] != url:
        return None
    try:
        server = psutil.Process(record["pid"])
        same = server.create_time() == record["created"]
    except psutil.NoSuchProcess:
        return None
    # Another user may listen at the port of a server that is down, to be told the string.
    return secret() if same and is_alive(server) else None


def headers(url: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """How a request to the server at `url` says that it may: with our string, or with the user's settings."""
    if string := own_string(url) or environment.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(string.encode()).decode()}"}
    key = environment.get("PREFECT_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _record() -> Path:
    return paths.home() / "services" / "prefect.json"


def secret() -> str:
    """The string, which the first call makes."""
    return secret_in(secret_file(), "r1:")


def secret_in(path: Path, prefix: str = "") -> str:
    """The string in a file that this user alone can read; the first call makes one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        # Written beside and then linked: whoever finds the file finds the whole string in it.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with open_private(draft, "w") as file:
            file.write(prefix + secrets.token_urlsafe(32))
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text()
