"""Lets Prefect's command line find our deployments by one name: `prefect deployment run r1-full-pipeline`.

Flow and deployment share their name, so `NAME` means `NAME/NAME`; `FLOW/NAME` works as ever. Loaded
through the entry point `prefect.plugins` where `prefect.toml` of this repository applies.
"""

from __future__ import annotations

from typing import Any

from prefect.plugins import HookContext, register_hook


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Complete bare deployment names in every lookup by name, once."""
    from prefect.client.orchestration import PrefectClient

    original = PrefectClient.read_deployment_by_name
    if getattr(original, "completes_names", False):
        return

    async def read_deployment_by_name(self: PrefectClient, name: str) -> Any:
        return await original(self, name if "/" in name else f"{name}/{name}")

    read_deployment_by_name.completes_names = True  # type: ignore[attr-defined]
    PrefectClient.read_deployment_by_name = read_deployment_by_name  # type: ignore
