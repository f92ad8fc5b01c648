"""Where the bytes of a store lie: a local disk, or anything fsspec speaks (`s3://`, `gs://`, `memory://`).

Paths are POSIX and relative to the store. On a disk an artifact appears by one rename; in an object store
by its manifest, which is uploaded last.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Protocol

from artifacts import files, leases
from artifacts.checks import MAX_DOCUMENT, MAX_TEXT
from artifacts.errors import CorruptArtifact, StoreError, StoreUnavailable
from artifacts.leases import Lease, WaitMessage
from artifacts.local import LEASES, STALE_SECONDS, LocalBackend
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME

_NO_FOLDERS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl"}
"""Here a path needs no folder, and making one would make a bucket of a mistyped name."""
Check = Callable[[], None]


class Backend(Protocol):
    url: str

    def check(self) -> None:
        """Raise StoreUnavailable where the store cannot be reached; one that is only empty is fine."""

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

    def commit(
        self, draft: Path, path: str, document: bytes, signature: bytes | None, check: Check = lambda: None
    ) -> None:
        """Make `draft` with the manifest `document` the artifact at `path`, all at once.

        `check` is called before the artifact appears, and raises where it must not.
        """

    def download(self, path: str, target: Path) -> None:
        """Copy one file."""

    def lease(self, name: str, wait_message: WaitMessage | None) -> AbstractContextManager[Lease]:
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
        except ImportError as error:
            raise StoreUnavailable(f"cannot open the store {url}: {error}: {_driver(url)}") from error
        except ValueError as error:
            raise StoreError(f"cannot open the store {url}: {error}") from error
        self.fs = DirFileSystem(root.rstrip("/"), fs)
        self.url = url.rstrip("/")

    def check(self) -> None:
        self._folders("keys")

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes | None:
        try:
            with self._reached():
                size = _plain_size(self.fs.info(path))
                if not 0 <= size <= limit:
                    what = f"is larger than {limit} bytes" if size > 0 else "is not a plain file"
                    raise CorruptArtifact(f"{self.address(path)} {what}")
                return bytes(self.fs.cat_file(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, data: bytes) -> None:
        with self._reached():
            self._make_parent(path)
            self.fs.pipe_file(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file that must not exist; False where it does."""
        try:
            with self._reached():
                self._make_parent(path)
                # `DirFileSystem` calls itself asynchronous whatever lies below it. Below, `pipe_file` is one
                # conditional request only in the asynchronous ones; the others look first and write then.
                if self.fs.fs.async_impl:
                    self.fs.pipe_file(path, data, mode="create")
                else:
                    with self.fs.open(path, "xb") as file:
                        file.write(data)
        except FileExistsError:
            return False
        self.fs.invalidate_cache()
        return True

    def remove(self, path: str) -> None:
        for target, recursive in ((f"{path}/{MANIFEST_NAME}", False), (path, True)):
            with suppress(FileNotFoundError, NotADirectoryError), self._reached():
                self.fs.info(target)
                self.fs.rm(target, recursive=recursive)
        self.fs.invalidate_cache()

    def move(self, old: str, new: str) -> None:
        listed = self.listing(old)
        if not listed or "" in listed:  # a single file
            with self._reached():
                self._make_parent(new)
                self.fs.mv(old, new)
            return
        for name in sorted(listed, key=lambda name: name != MANIFEST_NAME):
            with self._reached():
                self._make_parent(f"{new}/{name}")
                self.fs.mv(f"{old}/{name}", f"{new}/{name}")
        self.remove(old)

    def children(self, path: str) -> list[str]:
        self.fs.invalidate_cache()
        try:
            with self._reached():
                names = self.fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        if names == [path]:
            raise CorruptArtifact(f"{self.address(path)} is a file in the place of a folder")
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def listing(self, path: str) -> dict[str, int]:
        self.fs.invalidate_cache()
        with self._reached():
            found = self.fs.find(path, detail=True)
        return {name[len(path) + 1 :]: _plain_size(info) for name, info in found.items()}

    @contextmanager
    def open(self, path: str) -> Iterator[BufferedIOBase]:
        with self._reached():
            opened = self.fs.open(path, "rb")
        with opened as file:
            yield file

    def sha256(self, path: str) -> str:
        with self._reached(), self.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # has `readinto`

    def commit(
        self, draft: Path, path: str, document: bytes, signature: bytes | None, check: Check = lambda: None
    ) -> None:
        for name, file in files.entries(draft).items():
            if name != MANIFEST_NAME:
                with self._reached():
                    self._make_parent(f"{path}/{name}")
                    self.fs.put_file(str(file), f"{path}/{name}")
        if signature is not None:
            self.write(f"{path}/{SIGNATURE_NAME}", signature)
        check()
        self.write(f"{path}/{MANIFEST_NAME}", document)

    def download(self, path: str, target: Path) -> None:
        with self._reached():
            self.fs.get_file(path, str(target))

    @contextmanager
    def lease(self, name: str, wait_message: WaitMessage | None) -> Iterator[Lease]:
        with leases.object_lease(self, f"{LEASES}/{name}", wait_message) as lease:
            yield lease

    def held_leases(self) -> list[str]:
        return [name for name in self.children(LEASES) if leases.object_is_held(self, f"{LEASES}/{name}")]

    def stale(self) -> list[str]:
        """Uploads without a manifest, and leases that nobody holds."""
        uploads = [
            f"objects/{a}/{b}" for a in self._folders("objects") for b in self._folders(f"objects/{a}")
        ]
        free = [f"{LEASES}/{name}" for name in self._folders(LEASES)]
        return [path for path in (*uploads, *free) if self._is_abandoned(path)]

    def address(self, path: str) -> str:
        return str(self.fs.fs.unstrip_protocol(f"{self.fs.path}/{path}"))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what a file system and the libraries below it raise into one sentence with the remedy."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if _says(error, "NoSuchBucket", "bucket does not exist"):
                what = "there is no such bucket: create it, or correct R1_STORE"
            elif isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError):
                raise
            else:
                what = _unavailable(error)
            raise StoreUnavailable(f"the store {self.url} is not available: {what}") from error

    def _folders(self, path: str) -> list[str]:
        try:
            return self.children(path)
        except CorruptArtifact:
            return []

    def _is_abandoned(self, path: str) -> bool:
        with self._reached():
            found: dict[str, dict[str, Any]] = self.fs.find(path, detail=True)
            if f"{path}/{MANIFEST_NAME}" in found:
                return False
            ages = [time.time() - self.fs.modified(name).timestamp() for name in found]
        return bool(ages) and min(ages) > STALE_SECONDS

    def _make_parent(self, path: str) -> None:
        if _protocol(self.fs.fs) not in _NO_FOLDERS:
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)


def _protocol(fs: Any) -> str:
    return str(fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0])


def _driver(url: str) -> str:
    scheme = url.partition("://")[0]
    return {"s3": "install the extra `s3` (`.venv/bin/pip install s3fs`)"}.get(scheme, "install that package")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _says(error: BaseException, *words: str) -> bool:
    """Whether an exception, or one below it, has one of these words in its class's name or its text."""
    texts = [f"{type(cause).__name__} {cause}" for cause in _causes(error)]
    return any(word in text for word in words for text in texts)


def _unavailable(error: Exception) -> str:
    """Why a store cannot be used, with the remedy. Names of classes, as no driver need be installed."""
    if _says(error, "NoCredentials", "PartialCredentials", "CredentialRetrieval", "DefaultCredentials"):
        return "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if _says(error, "PermissionError", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNot"):
        return f"it refuses these credentials ({_first_line(error)}): check them and their rights"
    if _says(error, "Connect", "Timeout", "timed out", "Name or service not known", "ClosedError", "SSL"):
        return f"no answer ({_first_line(error)}): check the network and the address (AWS_ENDPOINT_URL)"
    return f"{_first_line(error)}: check R1_STORE and the store's own state, then try again"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:MAX_TEXT] or type(error).__name__


def _plain_size(info: dict[str, Any]) -> int:
    """Bytes; -1 for what is not a plain file (fsspec's local file system would follow a link)."""
    plain = info.get("type", "file") == "file" and not info.get("islink")
    return int(info["size"] or 0) if plain else -1


def open_backend(url: str) -> LocalBackend | ObjectBackend:
    """A path or `file://` URL is a local disk; every other URL goes to fsspec."""
    if url.startswith("file://"):
        return LocalBackend(Path(url.removeprefix("file://")))
    return ObjectBackend(url) if "://" in url else LocalBackend(Path(url))
