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


class DamagedName(CorruptArtifact):
    """The file of a name is not a ref any more; setting the name again replaces it."""


class UntrustedArtifact(StoreError):
    """Trust is required, and nobody that is trusted signed the artifact."""


class RefusedDraft(StoreError, ValueError):
    """A draft that may not become an artifact: empty, an unknown table, a wrong schema."""


class TableError(StoreError, ValueError):
    """Rows that do not fit their schema, or a Parquet file that cannot be read."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or refuses us; the message says which, and what to set."""


class StoreFull(StoreError):
    """There is no room for what was to be written; nothing of it was left behind."""


class LeaseLost(StoreError):
    """Another builder may have taken over what this one builds, so it must not publish."""


class StoreBusy(StoreError):
    """Somebody builds in the store, so nothing may be removed from it now."""
