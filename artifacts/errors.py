"""What the store refuses, in one line each: what is wrong, and where. Callers add what their users can do."""

from __future__ import annotations

from artifacts.checks import printable, redacted


class StoreError(Exception):
    """Anything the store refuses; the message is one line that is safe to show and holds no credentials."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(redacted(message)))


class UnknownArtifact(StoreError, LookupError):
    """No artifact (or more than one) answers to a digest, prefix or name."""


class CorruptArtifact(StoreError):
    """What lies in the store is not what was published."""


class UntrustedArtifact(StoreError):
    """Trust is required, and nobody that is trusted signed the artifact."""


class RefusedDraft(StoreError, ValueError):
    """A draft that may not become an artifact: empty, an unknown table, a wrong schema."""


class TableError(StoreError, ValueError):
    """Rows that do not fit their schema, or a Parquet file that cannot be read."""


class StoreBusy(StoreError):
    """Somebody builds in the store, so nothing may be removed from it now."""
