"""What a job process is asked to do, and what it says when it ends. Plain data, imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from artifacts.refs import Ref
from tasks.settings import in_order
from tasks.supervise.records import ExitRecord


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BuildSpec(_Record):
    """One artifact to make."""

    node: str
    stage: str
    config: dict[str, Any]
    """Every setting, volatile ones too."""
    inputs: Annotated[dict[str, Ref], AfterValidator(in_order)]
    """In the order of their names: the key does not see another one."""
    key: str
    ref_name: str
    """The named ref that is set to the result, e.g. `tiny/r1-zero`."""


class JobSpec(_Record):
    """The store is not part of it: its address may hold credentials, and goes by `R1_STORE`."""

    work_root: Path
    preset: str
    builds: tuple[BuildSpec, ...]
    aside: bool = False
    """Jobs are at work beside it that the recipe waits for, and not for this one (`tasks.job.cards`)."""


class BuildResult(_Record):
    node: str
    ref: Ref
    cached: bool
    """Another run had published it before this job got the lease."""
    seconds: float
    """Time at work on it, earlier attempts included."""


class JobExit(ExitRecord):
    """What a job says when it ends, `exit.json`."""

    node: str = ""
    """Where it failed or stopped."""
    results: tuple[BuildResult, ...] = ()
