"""What Prefect is changed to do in this repository's folder; loaded by the entry point `prefect.plugins`.

- `prefect deployment run r1-full-pipeline`: flow and deployment share their name, so `NAME` means
  `NAME/NAME`; `FLOW/NAME` works as ever.
- `prefect deploy` finds the version of the code that it registers (`flows.checkout`).
- Clients and workers get the string of this machine's server, the server asks for it (`flows.server_auth`),
  and nothing reports its use to anybody.
- Prefect's server uses SQLite differently. A transaction that reads and then writes fails at once ("database
  is locked") when another one was committed in between, whatever the timeout; workers that poll do that to
  each other several times a second, and to the runs that are being created. Taking the lock at the start
  makes them wait in turn. Newer releases do so for the polls; they need a FastAPI that vLLM refuses.

Prefect 3.7 runs the hook at the end of `import prefect` and reads its settings again afterwards, so that the
environment which the hook returns counts in this process and in all below it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from prefect.plugins import HookContext, SetupResult, register_hook

from flows import server_auth
from flows.checkout import CODE
from tasks.source_code import code_version

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

_SERVER = {"server", "prefect.server.api.server:create_app"}
"""One of these is an argument of a process that runs Prefect's server."""


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult:
    """Patch this process where Prefect has no setting for it; the environment that it goes on with."""
    words = set(sys.orig_argv)
    _complete_names()
    if _SERVER & words:
        lock_early()
    if {"server", "worker"} & words:
        os.umask(0o077)  # the database and its runs' parameters, work folders and logs are the user's own
    url = (ctx.api_url or "").rstrip("/")
    variables = environment(url, starts_server={"server", "start"} <= words)
    if "deploy" in words:
        variables[CODE] = code_version()
    return SetupResult(env=variables)


def environment(url: str, starts_server: bool) -> dict[str, str]:
    """The variables that a Prefect process whose API is at `url` is given."""
    variables = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    # Who sets a string for the server by hand gives it to the clients as well.
    if starts_server and "PREFECT_SERVER_API_AUTH_STRING" not in os.environ:
        variables |= server_auth.server_environment(url)
    if string := server_auth.own_string(url):
        variables["PREFECT_API_AUTH_STRING"] = string
    return variables


def _complete_names() -> None:
    from prefect.client.orchestration import PrefectClient

    original = PrefectClient.read_deployment_by_name
    if getattr(original, "completes_names", False):
        return

    async def read_deployment_by_name(self: PrefectClient, name: str) -> Any:
        return await original(self, name if "/" in name else f"{name}/{name}")

    read_deployment_by_name.completes_names = True  # type: ignore[attr-defined]
    PrefectClient.read_deployment_by_name = read_deployment_by_name  # type: ignore


def lock_early() -> None:
    """Outermost transactions on SQLite take the write lock as they begin; nested ones stay as they were.

    A nested one that took it would wait for its own outer one. Reads outside a transaction take no lock. Nor
    may those that Prefect makes in another thread while it commits, such as of an automation that it created:
    the thread of all transactions waits for them, so the next holder of the lock could never let go of it.
    """
    from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration

    original = AioSqliteConfiguration.begin_transaction
    if getattr(original, "locks_early", False):
        return

    @asynccontextmanager
    async def begin_transaction(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncIterator[Any]:
        outermost = SQLITE_BEGIN_MODE.get() is None
        async with original(self, session, with_for_update=with_for_update or outermost) as transaction:
            yield transaction
            SQLITE_BEGIN_MODE.set("DEFERRED")  # what begins during the commit inherits this

    begin_transaction.locks_early = True  # type: ignore[attr-defined]
    AioSqliteConfiguration.begin_transaction = begin_transaction  # type: ignore
