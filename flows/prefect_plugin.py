"""Lets Prefect's command line find our deployments by one name: `prefect deployment run r1-full-pipeline`.

Flow and deployment share their name, so `NAME` means `NAME/NAME`; `FLOW/NAME` works as ever. Loaded
through the entry point `prefect.plugins` where `prefect.toml` of this repository applies.

It also keeps a known fault of this Prefect out of the server's log: on SQLite, workers that poll at the
same time make each other's note of the poll fail, and Prefect tries again; unfiltered that is a traceback
of 8 KB two or three times a second.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect.plugins import HookContext, register_hook


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Complete bare deployment names in every lookup by name, once; quiet the server's retries."""
    logging.getLogger("docket.dependencies").addFilter(_is_news)
    from prefect.client.orchestration import PrefectClient

    original = PrefectClient.read_deployment_by_name
    if getattr(original, "completes_names", False):
        return

    async def read_deployment_by_name(self: PrefectClient, name: str) -> Any:
        return await original(self, name if "/" in name else f"{name}/{name}")

    read_deployment_by_name.completes_names = True  # type: ignore[attr-defined]
    PrefectClient.read_deployment_by_name = read_deployment_by_name  # type: ignore


def _is_news(record: logging.LogRecord) -> bool:
    """All but a retry after SQLite was locked."""
    error = record.exc_info[1] if record.exc_info else None
    return "database is locked" not in str(error)
