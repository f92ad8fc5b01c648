"""Lets Prefect's command line find our deployments by one name: `prefect deployment run r1-full-pipeline`.

Flow and deployment share their name, so `NAME` means `NAME/NAME`; `FLOW/NAME` works as ever. Loaded
through the entry point `prefect.plugins` where `prefect.toml` of this repository applies.

It also mends how this Prefect's server uses SQLite. A transaction that reads and then writes fails at once
("database is locked") when another one was committed in between, whatever the timeout; workers that poll do
that to each other several times a second, and to the runs that are being created. Taking the lock at the
start makes them wait in turn. Newer releases do so for the polls; they need a FastAPI that vLLM refuses.
"""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from prefect.plugins import HookContext, register_hook

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

_SERVER = {"server", "prefect.server.api.server:create_app"}
"""One of these is an argument of a process that runs Prefect's server."""


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Complete bare deployment names in every lookup by name; lock early in the server. Both once."""
    _complete_names()
    if _SERVER.intersection(sys.orig_argv):
        lock_early()


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

    A nested one that took it would wait for its own outer one. Reads outside a transaction take no lock.
    """
    from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration

    original = AioSqliteConfiguration.begin_transaction
    if getattr(original, "locks_early", False):
        return

    def begin_transaction(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AbstractAsyncContextManager[Any]:
        outermost = SQLITE_BEGIN_MODE.get() is None
        return original(self, session, with_for_update=with_for_update or outermost)

    begin_transaction.locks_early = True  # type: ignore[attr-defined]
    AioSqliteConfiguration.begin_transaction = begin_transaction  # type: ignore
