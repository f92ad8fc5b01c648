"""Where the bytes of a store lie: a local disk, or anything fsspec speaks (`s3://`, `gs://`, `memory://`).

Paths are POSIX and relative to the store. On a disk an artifact appears by one rename; in an object store
by its manifest, which is uploaded last.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from artifacts import files, leases
from artifacts.errors import StoreError
from artifacts.leases import WaitMessage
from artifacts.manifest import MANIFEST_NAME

LEASES = "leases"
TEMPORARY = "tmp"
STALE_SECONDS = 3600.0
"""A temporary file or unfinished upload untouched for this long belongs to nobody alive."""


class Backend(Protocol):
    url: str

    def read(self, path: str) -> bytes | None:
        """The file's bytes, or None."""

    def write(self, path: str, data: bytes) -> None:
        """Replace a file atomically."""

    def remove(self, path: str) -> None:
        """Delete a file or a tree; an artifact disappears at once, as it appeared."""

    def move(self, old: str, new: str) -> None:
        """Rename a tree."""

    def children(self, path: str) -> list[str]:
        """The names directly below `path`, sorted; none where there is no such folder."""

    def listing(self, path: str) -> dict[str, int]:
        """Every file below `path` (relative to it) -> bytes; -1 for what is not a plain file."""

    def sha256(self, path: str) -> str:
        """64 hex digits."""

    def commit(self, draft: Path, path: str, document: bytes) -> None:
        """Make `draft` with the manifest `document` the artifact at `path`, all at once."""

    def download(self, path: str, target: Path) -> None:
        """Copy one file."""

    def lease(self, name: str, wait_message: WaitMessage | None) -> AbstractContextManager[None]:
        """Hold the lease called `name`."""

    def held_leases(self) -> list[str]:
        """The names of the leases held now."""

    def stale(self) -> list[str]:
        """What a crash left behind, untouched for `STALE_SECONDS`."""

    def address(self, path: str) -> str:
        """`path` as other tools name it."""


class LocalBackend:
    """A folder on a disk with POSIX renames and `flock` (NFS 4 too)."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.url = f"file://{self.root}"

    def read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, data: bytes) -> None:
        files.write_atomic(self.root / path, data)

    def remove(self, path: str) -> None:
        target = self.root / path
        if target.is_dir() and not target.is_symlink():
            doomed = self.temporary()
            os.rename(target, doomed)
            shutil.rmtree(doomed)
        else:
            target.unlink(missing_ok=True)

    def move(self, old: str, new: str) -> None:
        files.make_directory((self.root / new).parent)
        os.rename(self.root / old, self.root / new)
        files.fsync_path((self.root / new).parent)
        files.fsync_path((self.root / old).parent)

    def children(self, path: str) -> list[str]:
        folder = self.root / path
        return (
            sorted(p.name for p in folder.iterdir() if not files.is_temporary(p)) if folder.is_dir() else []
        )

    def listing(self, path: str) -> dict[str, int]:
        return {name: _plain_size(file) for name, file in files.entries(self.root / path).items()}

    def sha256(self, path: str) -> str:
        return files.sha256_file(self.root / path)

    def commit(self, draft: Path, path: str, document: bytes) -> None:
        target = self.root / path
        files.make_directory(target.parent)
        files.write_atomic(draft / MANIFEST_NAME, document)
        try:
            _rename_whole(draft, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            staged = self.temporary()
            shutil.copytree(draft, staged)
            files.sync_tree(staged)
            _rename_whole(staged, target)
        files.fsync_path(target.parent)

    def path(self, path: str) -> Path:
        """Where `path` lies on this disk."""
        return self.root / path

    def download(self, path: str, target: Path) -> None:
        shutil.copyfile(self.root / path, target)

    def lease(self, name: str, wait_message: WaitMessage | None) -> AbstractContextManager[None]:
        return leases.file_lease(self.root / LEASES / f"{name}.lock", wait_message)

    def held_leases(self) -> list[str]:
        locks = (self.root / LEASES).glob("*.lock")
        return sorted(lock.stem for lock in locks if leases.file_is_held(lock))

    def stale(self) -> list[str]:
        left = [p for folder in ("keys", "refs") for p in (self.root / folder).rglob(".*.tmp")]
        left += (self.root / TEMPORARY).glob("*")
        return [p.relative_to(self.root).as_posix() for p in left if _is_stale(p)]

    def address(self, path: str) -> str:
        return str(self.root / path)

    def temporary(self) -> Path:
        """A fresh name on the same disk; `stale` finds it when its owner is gone."""
        folder = self.root / TEMPORARY
        files.make_directory(folder)
        return folder / uuid.uuid4().hex


def _rename_whole(draft: Path, target: Path) -> None:
    """Rename; where `target` is there already it has the same digest, so the same bytes."""
    try:
        os.rename(draft, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _plain_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() and not path.is_symlink() else -1


def _is_stale(path: Path) -> bool:
    newest = max((p.lstat().st_mtime for p in [path, *path.rglob("*")]), default=0.0)
    return time.time() - newest > STALE_SECONDS


class ObjectBackend:
    """An fsspec file system with atomic puts and, for leases, exclusive creates (S3, GCS and Azure)."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.dirfs import DirFileSystem

        try:
            fs, root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(f"cannot open the store {url}: {error}") from error
        self.fs = DirFileSystem(root.rstrip("/"), fs)
        self.url = url.rstrip("/")

    def read(self, path: str) -> bytes | None:
        try:
            return bytes(self.fs.cat_file(path))
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        self._make_parent(path)
        self.fs.pipe_file(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file that must not exist; False where it does."""
        self._make_parent(path)
        try:
            if self.fs.async_impl:
                self.fs.pipe_file(path, data, mode="create")
            else:
                with self.fs.open(path, "xb") as file:
                    file.write(data)
        except FileExistsError:
            return False
        self.fs.invalidate_cache()
        return True

    def remove(self, path: str) -> None:
        manifest = f"{path}/{MANIFEST_NAME}"
        for target, recursive in ((manifest, False), (path, True)):
            if self.fs.exists(target):
                self.fs.rm(target, recursive=recursive)
        self.fs.invalidate_cache()

    def move(self, old: str, new: str) -> None:
        for name in sorted(self.listing(old), key=lambda name: name != MANIFEST_NAME):
            self._make_parent(f"{new}/{name}")
            self.fs.mv(f"{old}/{name}", f"{new}/{name}")
        self.remove(old)

    def children(self, path: str) -> list[str]:
        self.fs.invalidate_cache()
        try:
            names = self.fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def listing(self, path: str) -> dict[str, int]:
        self.fs.invalidate_cache()
        found = self.fs.find(path, detail=True)
        return {name[len(path) + 1 :]: int(info["size"]) for name, info in found.items()}

    def sha256(self, path: str) -> str:
        with self.fs.open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def commit(self, draft: Path, path: str, document: bytes) -> None:
        for name, file in files.entries(draft).items():
            if name != MANIFEST_NAME:
                self._make_parent(f"{path}/{name}")
                self.fs.put_file(str(file), f"{path}/{name}")
        self.write(f"{path}/{MANIFEST_NAME}", document)

    def download(self, path: str, target: Path) -> None:
        self.fs.get_file(path, str(target))

    @contextmanager
    def lease(self, name: str, wait_message: WaitMessage | None) -> Iterator[None]:
        with leases.object_lease(self, f"{LEASES}/{name}", wait_message):
            yield

    def held_leases(self) -> list[str]:
        return [name for name in self.children(LEASES) if leases.object_is_held(self, f"{LEASES}/{name}")]

    def stale(self) -> list[str]:
        """Uploads without a manifest."""
        folders = [
            f"objects/{a}/{b}" for a in self.children("objects") for b in self.children(f"objects/{a}")
        ]
        return [path for path in folders if self._is_abandoned(path)]

    def address(self, path: str) -> str:
        return str(self.fs.fs.unstrip_protocol(f"{self.fs.path}/{path}"))

    def _is_abandoned(self, path: str) -> bool:
        found: dict[str, dict[str, Any]] = self.fs.find(path, detail=True)
        if f"{path}/{MANIFEST_NAME}" in found:
            return False
        ages = [time.time() - self.fs.modified(name).timestamp() for name in found]
        return bool(ages) and min(ages) > STALE_SECONDS

    def _make_parent(self, path: str) -> None:
        self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)


def open_backend(url: str) -> LocalBackend | ObjectBackend:
    """A path or `file://` URL is a local disk; every other URL goes to fsspec."""
    if url.startswith("file://"):
        return LocalBackend(Path(url.removeprefix("file://")))
    return ObjectBackend(url) if "://" in url else LocalBackend(Path(url))
