"""What a user can do about what the store reports. The store itself knows no command of this project."""

from __future__ import annotations

from artifacts.catalog import Fault
from artifacts.errors import CorruptArtifact, StoreBusy, StoreError, UnknownArtifact, UntrustedArtifact

_BY_ERROR: dict[type[StoreError], str] = {
    CorruptArtifact: "run `r1 verify --repair`, then the pipeline again",
    UnknownArtifact: "`r1 ls` shows what there is, `make run` builds what is missing",
    UntrustedArtifact: "`r1 trust list` shows the keys; run the pipeline to build it yourself",
    StoreBusy: "wait for it or stop it with `r1 down`",
}
_BY_FAULT = {
    Fault.damaged: "run `r1 verify --repair`, then the pipeline again",
    Fault.index: "run `r1 verify --repair`",
    Fault.gone: "run the pipeline again",
    Fault.name: "delete it, then run the pipeline again",
    Fault.stray: "delete it",
}


def explained(error: StoreError) -> str:
    """The error with what to do about it, in one line."""
    remedy = next((text for kind, text in _BY_ERROR.items() if isinstance(error, kind)), "")
    return f"{error} ({remedy})" if remedy else str(error)


def remedy_of(fault: Fault) -> str:
    """What to do about damage that `r1 verify` found."""
    return _BY_FAULT[fault]
