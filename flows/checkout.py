"""Which checkout's code a flow run is: it has to be the code that its deployment was registered with.

A deployment names modules, no folder. A worker runs them in the folder in which it was started, so a moved
or a second checkout, or a machine that keeps its checkout elsewhere, runs its own code. Its deployment holds
the code's version (`tasks.source_code.code_version`, by `version:` in prefect.yaml); a flow run whose own
code is another one ends at once and says so.
"""

from __future__ import annotations

from typing import Any

from tasks import source_code
from tasks.settings import REPOSITORY

CODE = "R1_CODE"
"""Environment variable that prefect.yaml takes the version from; `flows.prefect_plugin` sets it."""


class OtherCode(RuntimeError):
    """The deployment was registered with other code than runs here."""


def stay(**_: Any) -> dict[str, str]:
    """The deployments' pull step: the run stays in its worker's folder.

    Without a pull step of our own Prefect registers one that changes to the folder of whoever registered.
    """
    return {}


def refuse_other_code() -> None:
    """Called first in every flow; outside a deployment there is nothing to compare.

    Raises:
        OtherCode: one sentence with the remedy.
    """
    from prefect.runtime import deployment

    if deployment.id and (complaint := objection(deployment.version or "")):
        raise OtherCode(complaint)


def objection(registered: str) -> str:
    """Why code that was registered as `registered` must not run here; empty where it may."""
    if source_code.is_this_code(registered):
        return ""
    return (
        f"the deployment was registered with other code (version {registered or 'unknown'}) than lies in "
        f"{REPOSITORY}, where this worker was started (version {source_code.code_version()}): `r1 up` there "
        "registers that code, or bring this checkout to the same state and restart its workers"
    )
