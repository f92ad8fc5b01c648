"""What a user can do about what the store reports. The store itself knows no command of this project."""

from __future__ import annotations

from artifacts.catalog import Fault
from artifacts.errors import (
    CorruptArtifact,
    StoreBusy,
    StoreError,
    StoreFull,
    UnknownArtifact,
    UntrustedArtifact,
)

_BY_ERROR: dict[type[StoreError], str] = {
    CorruptArtifact: "run `r1 verify --repair`, then the pipeline again",
    UnknownArtifact: "`r1 ls` shows what there is, `make run` builds what is missing",
    UntrustedArtifact: "`r1 trust list` shows the keys; run the pipeline to build it yourself",
    StoreFull: "`r1 gc --yes` removes what no name reaches; R1_STORE, R1_WORK and R1_CACHE set other disks",
    StoreBusy: "wait for it or stop it with `r1 down`",
}
_BY_FAULT = {
    Fault.damaged: "run `r1 verify --repair`, then the pipeline again",
    Fault.index: "run `r1 verify --repair`",
    Fault.gone: "run the pipeline again, or forget the name: `r1 gc --yes --forget NAME`",
    Fault.unused: "no name reaches it: `r1 gc --yes` removes it",
    Fault.name: "run `r1 verify --repair`, then the pipeline again",
    Fault.stray: "run `r1 verify --repair`",
    Fault.folder: "put a folder in its place",
}


def explained(error: StoreError) -> str:
    """The error with what to do about it, in one line."""
    remedy = next((text for kind, text in _BY_ERROR.items() if isinstance(error, kind)), "")
    return f"{error} ({remedy})" if remedy else str(error)


def remedy_of(fault: Fault) -> str:
    """What to do about damage that `r1 verify` found."""
    return _BY_FAULT[fault]
