"""Typed references to artifacts: what builders pass to each other instead of paths.

An artifact is an immutable directory named by the SHA-256 of its manifest. A reference is its kind
and that digest, nothing more; it means the same on every machine that sees the store.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


KindName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""What an artifact holds, as its builder calls it; the store only compares it."""


class Ref(BaseModel):
    """A typed reference: whoever asks for one kind of artifact is refused another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: KindName
    digest: Digest

    @property
    def short(self) -> str:
        return self.digest[:12]
