"""A draft: the folder a builder filled, checked and synced before it becomes an artifact."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from artifacts.errors import CorruptArtifact, RefusedDraft, TableError
from artifacts.files import entries, is_temporary, sha256_files, sync_tree
from artifacts.manifest import MANIFEST_NAME, FileEntry, Manifest
from artifacts.tables import Tables, inspect


def draft_files(draft: Path, key: str, tables: Tables) -> tuple[FileEntry, ...]:
    """The draft's files, every table checked, every digest taken, all of it on disk.

    Raises:
        RefusedDraft: it is empty, holds something that is no plain file, or a table of no or another schema.
    """
    if not draft.is_dir():
        raise RefusedDraft(f"the draft {draft} is no folder: write the artifact's files there first")
    _drop_leftovers(draft, key)
    found = entries(draft)
    if not found:
        raise RefusedDraft(f"the draft {draft} is empty: write the artifact's files there first")
    for name, path in found.items():
        _refuse_odd(name, path)
    shapes = [_table(name, path, tables) for name, path in found.items()]
    sync_tree(draft)
    digests = sha256_files(found.values())
    return tuple(
        FileEntry(path=name, size=path.stat().st_size, sha256=digest, table=table, rows=rows)
        for (name, path), digest, (table, rows) in zip(found.items(), digests, shapes, strict=True)
    )


def _drop_leftovers(draft: Path, key: str) -> None:
    """What a publish that died before its rename left: the manifest, and files never finished."""
    for unfinished in filter(is_temporary, entries(draft).values()):
        unfinished.unlink()
    path = draft / MANIFEST_NAME
    if not path.exists():
        return
    try:
        ours = Manifest.parse(path.read_bytes(), str(path)).key == key
    except CorruptArtifact:
        ours = False
    if not ours:
        raise RefusedDraft(f"{path}: this name is the store's own; give the file another")
    path.unlink()


def _refuse_odd(name: str, path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise RefusedDraft(f"{name} in the draft {path} is a link or special file: copy what it points to")
    if not unicodedata.is_normalized("NFC", name):
        raise RefusedDraft(f"the name {name!r} in the draft is not in Unicode form NFC: rename the file")


def _table(name: str, path: Path, tables: Tables) -> tuple[str | None, int | None]:
    if path.suffix != ".parquet":
        return None, None
    try:
        return inspect(path, name, tables)
    except TableError as error:
        raise RefusedDraft(f"the draft {path.parent} is refused: {error}") from error
