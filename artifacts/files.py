"""Files that are whole or absent: atomic writes, syncing, hashing."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from artifacts.errors import StoreFull

_FULL = {errno.ENOSPC, errno.EDQUOT}


def fsync_path(path: Path) -> None:
    """Flush a file or a directory (its list of names) to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """`mkdir -p`, every new name synced."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    fsync_path(path.parent)


@contextmanager
def room(folder: Path, size: int = 0) -> Iterator[None]:
    """Turn the error of a full disk, or a quota, into one sentence about `folder`, where `size` bytes go."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full(folder, size) from error


def require_room(folder: Path, size: int) -> None:
    """Raise StoreFull where `folder` has no room for `size` bytes more."""
    if shutil.disk_usage(folder).free < size:
        raise _full(folder, size)


def _full(folder: Path, size: int) -> StoreFull:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    needed = f", {size:,} needed" if size else ""
    free = f"{shutil.disk_usage(place).free:,} bytes free{needed}"
    return StoreFull(f"the disk of {folder} is full ({free}): free some space there, then run it again")


def temporary_name(path: Path) -> Path:
    """A fresh hidden name beside `path`; `is_temporary` knows it."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write; synced and renamed to `path` on success, removed on an exception."""
    make_directory(path.parent)
    temporary = temporary_name(path)
    try:
        yield temporary
        fsync_path(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Readers see the old bytes or the new ones, also after a crash."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def sha256_file(path: Path) -> str:
    """64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(paths: Iterable[Path]) -> list[str]:
    """The digests in order; hashing releases the GIL, so one thread a core."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(sha256_file, paths))


def entries(root: Path) -> dict[str, Path]:
    """Everything below `root` that is not a directory, by POSIX path relative to it, sorted."""
    found = (Path(folder) / name for folder, _, names in os.walk(root) for name in names)
    links = (
        Path(folder) / name
        for folder, names, _ in os.walk(root)
        for name in names
        if (Path(folder) / name).is_symlink()
    )
    return {path.relative_to(root).as_posix(): path for path in sorted([*found, *links])}


def set_modes(root: Path, folder_mode: int, file_mode: int) -> None:
    """Give every folder and file of a tree of ours the same permissions."""
    for folder, _, names in os.walk(root):
        os.chmod(folder, folder_mode)
        for name in names:
            os.chmod(Path(folder) / name, file_mode)


def sync_tree(root: Path) -> None:
    """Sync every file below `root`, and every directory."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            fsync_path(Path(folder) / name)
        fsync_path(Path(folder))
