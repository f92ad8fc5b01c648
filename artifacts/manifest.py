"""The manifest: what an artifact is, what made it, and the digest of every file.

`manifest.json` holds canonical JSON (`artifacts.keys.canonical_json`); its SHA-256 names the artifact.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from artifacts.checks import (
    MAX_FILES,
    MAX_TEXT,
    Count,
    FilePath,
    Seconds,
    Text,
    Time,
    distinct_paths,
    first_reason,
    parse_json,
    printable,
)
from artifacts.errors import CorruptArtifact
from artifacts.keys import canonical, canonical_json
from artifacts.refs import Digest, KindName, Ref

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.json.sig"
"""Lies beside the manifest, never in it: signing does not change what an artifact is."""
OWN_NAMES = frozenset({MANIFEST_NAME, SIGNATURE_NAME})
"""What the store itself writes into an artifact's folder."""
_MAX_NAMES = 1_000


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    path: FilePath
    """POSIX, relative to the artifact."""
    size: Count
    """Bytes."""
    sha256: Digest
    rows: Count | None = None
    """Rows of a Parquet file."""
    table: Text | None = None
    """The schema it was checked against, one of those given to `ArtifactStore.publish`."""


class ManifestDraft(BaseModel):
    """What the builder says of its work; the store adds the files and the time."""

    model_config = ConfigDict(frozen=True)

    kind: KindName
    stage: Text
    stage_version: Count
    node: Text
    """Its name in the graph, e.g. `r1-zero`."""
    preset: Text = ""
    key: Digest
    """The cache key (`artifacts.keys.cache_key`)."""
    config: dict[str, Any] = {}
    """Every setting, resolved, volatile ones too; JSON values."""
    parents: Annotated[dict[Text, Ref], Field(max_length=_MAX_NAMES)] = {}
    """Input name -> what it was built from."""
    versions: Annotated[dict[Text, Text], Field(max_length=_MAX_NAMES)] = {}
    """Library -> version."""
    code_revision: Text | None = None
    sources: Annotated[dict[Text, Text], Field(max_length=_MAX_NAMES)] = {}
    """Source file -> digest of what it said when the artifact was made."""
    seconds: Seconds = 0.0
    accelerator_hours: Seconds = 0.0
    summary: Annotated[dict[Text, float | int | str], Field(max_length=_MAX_NAMES)] = {}
    """Headline values; one that is not finite is kept as text (`"nan"`), text without control characters."""

    @field_validator("config")
    @classmethod
    def _is_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        canonical(value)
        return value

    @field_validator("summary", mode="before")
    @classmethod
    def _finite_or_text(cls, value: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _shown(item) for name, item in value.items()}


def _shown(value: Any) -> Any:
    """Cut and escaped, never refused: a job that worked for days must not fail on a word of its summary."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return printable(value)[:MAX_TEXT] if isinstance(value, str) else value


class Manifest(ManifestDraft):
    """A published artifact. Unknown fields, written by a newer release, are ignored."""

    digest: Digest = Field(exclude=True)
    """SHA-256 of the manifest's bytes; not part of them."""
    created_at: Time
    files: Annotated[tuple[FileEntry, ...], Field(max_length=MAX_FILES)]

    @field_validator("files")
    @classmethod
    def _distinct(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        distinct_paths([file.path for file in files])
        if any(file.path in OWN_NAMES for file in files):
            raise ValueError("names the manifest itself as a file")
        return files

    @property
    def ref(self) -> Ref:
        return Ref(kind=self.kind, digest=self.digest)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def tables(self) -> dict[str, int]:
        """Table name -> rows over all its files."""
        rows: dict[str, int] = {}
        for file in self.files:
            if file.table is not None:
                rows[file.table] = rows.get(file.table, 0) + (file.rows or 0)
        return rows

    @classmethod
    def parse(cls, document: bytes, where: str) -> Self:
        """The manifest in `document`, read from `where`.

        Raises:
            CorruptArtifact: the bytes are no manifest.
        """
        try:
            fields = parse_json(document)
            if not isinstance(fields, dict):
                raise ValueError("not a JSON object")
            return cls(**{**fields, "digest": hashlib.sha256(document).hexdigest()})
        except (ValueError, TypeError) as error:
            raise CorruptArtifact(f"{where} is not a manifest ({first_reason(error)})") from error


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder` (as `ArtifactStore.fetch` gives it).

    Raises:
        CorruptArtifact: there is none, or its bytes are no manifest.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise CorruptArtifact(f"{path} is missing")
    return Manifest.parse(path.read_bytes(), str(path))


def seal(draft: ManifestDraft, files: tuple[FileEntry, ...]) -> tuple[bytes, Manifest]:
    """The manifest's bytes, as they are stored, and the manifest."""
    fields = draft.model_dump(mode="json") | {
        "created_at": datetime.now(UTC).isoformat(),
        "files": [file.model_dump(mode="json") for file in files],
    }
    document = canonical_json(fields)
    return document, Manifest.parse(document, MANIFEST_NAME)
