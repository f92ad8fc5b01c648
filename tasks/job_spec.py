"""What a job process is asked to do, and what it says when it ends. Plain data, imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from artifacts.refs import Ref

GRACE_SECONDS = 30.0
"""How long a job that was asked to stop may take to write its checkpoint."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BuildSpec(_Record):
    """One artifact to make."""

    node: str
    stage: str
    config: dict[str, Any]
    """Every setting, volatile ones too."""
    inputs: dict[str, Ref]
    key: str
    ref_name: str
    """The named ref that is set to the result, e.g. `tiny/r1-zero`."""


class JobSpec(_Record):
    store: str
    work_root: Path
    preset: str
    builds: tuple[BuildSpec, ...]


class BuildResult(_Record):
    node: str
    ref: Ref
    cached: bool
    """Another run had published it before this job got the lease."""
    seconds: float
    """Time at work on it, earlier attempts included."""


class ExitRecord(_Record):
    """The last word of a job, `exit.json`; a job without one died."""

    status: Literal["ok", "failed", "stopped"]
    reason: str = ""
    """One line."""
    node: str = ""
    """Where it failed or stopped."""
    results: tuple[BuildResult, ...] = ()

    @classmethod
    def read(cls, job_folder: Path) -> ExitRecord | None:
        """The record of a job that ended; None while it runs, and for one that died."""
        try:
            return cls.model_validate_json((job_folder / "exit.json").read_bytes())
        except FileNotFoundError:
            return None
