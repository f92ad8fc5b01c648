"""Where the bytes of a store lie: a local disk, or anything fsspec speaks (`s3://`, `gs://`, `memory://`).

Paths are POSIX and relative to the store. On a disk an artifact appears by one rename; in an object store
by its manifest, which is uploaded last.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Protocol

from artifacts import files, leases
from artifacts.checks import MAX_DOCUMENT
from artifacts.errors import CorruptArtifact, StoreError
from artifacts.leases import WaitMessage
from artifacts.local import LEASES, STALE_SECONDS, LocalBackend
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME


class Backend(Protocol):
    url: str

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes | None:
        """The file's bytes, or None.

        Raises:
            CorruptArtifact: it is not a plain file, or larger than `limit` bytes.
        """

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

    def open(self, path: str) -> AbstractContextManager[BufferedIOBase]:
        """A plain file, to read."""

    def commit(self, draft: Path, path: str, document: bytes, signature: bytes | None) -> None:
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

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes | None:
        try:
            size = _plain_size(self.fs.info(path))
            if not 0 <= size <= limit:
                what = f"is larger than {limit} bytes" if size > 0 else "is not a plain file"
                raise CorruptArtifact(f"{self.address(path)} {what}")
            return bytes(self.fs.cat_file(path))
        except (FileNotFoundError, NotADirectoryError):
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
        return {name[len(path) + 1 :]: _plain_size(info) for name, info in found.items()}

    @contextmanager
    def open(self, path: str) -> Iterator[BufferedIOBase]:
        with self.fs.open(path, "rb") as file:
            yield file

    def sha256(self, path: str) -> str:
        with self.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # has `readinto`

    def commit(self, draft: Path, path: str, document: bytes, signature: bytes | None) -> None:
        for name, file in files.entries(draft).items():
            if name != MANIFEST_NAME:
                self._make_parent(f"{path}/{name}")
                self.fs.put_file(str(file), f"{path}/{name}")
        if signature is not None:
            self.write(f"{path}/{SIGNATURE_NAME}", signature)
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


def _plain_size(info: dict[str, Any]) -> int:
    """Bytes; -1 for what is not a plain file (fsspec's local file system would follow a link)."""
    plain = info.get("type", "file") == "file" and not info.get("islink")
    return int(info["size"] or 0) if plain else -1


def open_backend(url: str) -> LocalBackend | ObjectBackend:
    """A path or `file://` URL is a local disk; every other URL goes to fsspec."""
    if url.startswith("file://"):
        return LocalBackend(Path(url.removeprefix("file://")))
    return ObjectBackend(url) if "://" in url else LocalBackend(Path(url))
