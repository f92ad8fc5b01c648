"""The page of a run in progress: curves, completions and nodes as they come.

    r1 report --live --preset tiny      the page of whatever runs, until Ctrl-C
    r1 run --live                       the same page beside the terminal's view

It listens on loopback alone and asks for the string that opens the installation's Prefect server
(`flows.server_auth`): completions are worth as much as the data that they come from. It reads and changes
nothing. Model text goes out as JSON, the page puts it in as text, and its policy allows no script but its
own file.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from artifacts.errors import StoreError
from flows.services import ServiceError
from tasks.report import style

if TYPE_CHECKING:
    from flows.live_state import LiveRun

HOST = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def application(run: LiveRun, string: str) -> FastAPI:
    """The page, its parts and its data; `string` is USER:PASSWORD."""
    drawing = threading.Lock()  # matplotlib draws one figure at a time

    def admitted(given: Annotated[HTTPBasicCredentials, Depends(HTTPBasic(realm="r1"))]) -> None:
        if not secrets.compare_digest(f"{given.username}:{given.password}".encode(), string.encode()):
            raise HTTPException(401, "not the string of this installation", {"WWW-Authenticate": "Basic"})

    app = FastAPI(dependencies=[Depends(admitted)], docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def with_headers(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await following(request)
        answer.headers.update(HEADERS)
        return answer

    # Outermost: a page of another site that reaches this port under a name of its own (DNS rebinding) is
    # refused before anything else.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    @app.exception_handler(StoreError)
    @app.exception_handler(OSError)
    def unreadable(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": " ".join(str(error).split())}, 503)

    @app.get("/")
    def page() -> Response:
        return Response(_file("page.html"), media_type="text/html")

    @app.get("/live.js")
    def script() -> Response:
        return Response(_file("live.js"), media_type="text/javascript")

    @app.get("/live.css")
    def rules() -> Response:
        return Response(_variables() + _file("live.css"), media_type="text/css")

    @app.get("/state")
    def state(node: str = "") -> dict[str, Any]:
        return run.document(node)

    @app.get("/samples")
    def samples(node: str) -> list[dict[str, Any]]:
        return run.samples(node)

    @app.get("/curves.svg")
    def curves(node: str) -> Response:
        with drawing:
            drawn = run.curves(node)
        if drawn is None:
            raise HTTPException(404, "it has no curves yet")
        return Response(drawn, media_type="image/svg+xml")

    return app


@contextmanager
def served(run: LiveRun, string: str, port: int) -> Iterator[str]:
    """Serve the page in a thread; yields its address.

    Raises:
        ServiceError: the port is taken.
    """
    with closing(_listening(port)) as listening:
        config = uvicorn.Config(
            application(run, string), log_level="warning", access_log=False, lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(5)


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ServiceError(
            f"port {port} of this machine is taken ({error.strerror}): choose another by --port, 0 for any"
        ) from None


def _file(name: str) -> str:
    return files("flows").joinpath("live_files", name).read_text()


def _variables() -> str:
    """The colours and fonts of the report."""

    def rule(palette: dict[str, str]) -> str:
        return ":root{" + "".join(f"--{name}:{value};" for name, value in palette.items()) + "}"

    light = style.LIGHT | {"font": style.FONT, "mono": style.MONO}
    return f"{rule(light)}@media(prefers-color-scheme:dark){{{rule(style.DARK)}}}"
