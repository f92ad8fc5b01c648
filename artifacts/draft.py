"""A draft: the folder a builder filled, checked and synced before it becomes an artifact."""

from __future__ import annotations

from pathlib import Path

from artifacts.checks import MAX_FILES, file_path
from artifacts.errors import CorruptArtifact, RefusedDraft, TableError
from artifacts.files import entries, is_temporary, sha256_files, sync_tree
from artifacts.manifest import OWN_NAMES, FileEntry, load_manifest
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
    if len(found) > MAX_FILES:
        raise RefusedDraft(f"the draft {draft} holds {len(found)} files: pack them, {MAX_FILES} is the limit")
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
    if not any((draft / name).exists() for name in OWN_NAMES):
        return
    try:
        ours = load_manifest(draft).key == key
    except CorruptArtifact:
        ours = False
    if not ours:
        raise RefusedDraft(f"{draft}: {' and '.join(sorted(OWN_NAMES))} are the store's own: rename the file")
    for name in OWN_NAMES:
        (draft / name).unlink(missing_ok=True)


def _refuse_odd(name: str, path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise RefusedDraft(f"{name} in the draft {path} is a link or special file: copy what it points to")
    try:
        file_path(name)
    except ValueError as error:
        raise RefusedDraft(f"in the draft {path.parent}: {error}: rename the file") from error


def _table(name: str, path: Path, tables: Tables) -> tuple[str | None, int | None]:
    if path.suffix != ".parquet":
        return None, None
    try:
        return inspect(path, name, tables)
    except TableError as error:
        raise RefusedDraft(f"the draft {path.parent} is refused: {error}") from error
