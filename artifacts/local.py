"""A store on a disk, reached through folder descriptors so that no link below its root is ever followed.

Whoever may write into a shared store could put a link in the place of `tmp`, `leases`, `refs` or any other
folder, and so turn a deletion or a write of ours against files elsewhere. Every folder is therefore opened
from its parent with `O_NOFOLLOW`, and every file is opened, renamed and removed relative to such a
descriptor. Only the root itself may be a link: its owner chose it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedIOBase
from pathlib import Path, PurePosixPath

from artifacts import files, leases
from artifacts.checks import MAX_DOCUMENT, MAX_FILES, MAX_FOLDERS
from artifacts.errors import CorruptArtifact, StoreUnavailable
from artifacts.leases import Lease, WaitMessage
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME

LEASES = "leases"
TEMPORARY = "tmp"
STALE_SECONDS = 3600.0
"""A temporary file or unfinished upload untouched for this long belongs to nobody alive."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO would wait for its writer for ever. On a plain file it changes nothing.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What an entry of somebody else can cause; a full or broken disk is no damage of the store.
_IN_THE_WAY = {
    errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG
}  # fmt: skip
_MAX_ENTRIES = 2 * MAX_FILES
_GROUP_AND_INHERITANCE = 0o2070


class LocalBackend:
    """A folder on a disk with POSIX renames and `flock` (NFS 4 too).

    Folders are made with mode 0700 and files with 0600. A root that is closed to others and open to its group
    (`chmod 2770`) says that the store is shared on purpose: the group then has the same rights below it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.url = f"file://{self.root}"

    def check(self) -> None:
        place = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            what = "is closed to this user" if place.is_dir() else "is a file"
            raise StoreUnavailable(
                f"the store {self.root} cannot be written, as {place} {what}: change that, or R1_STORE"
            )

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes | None:
        try:
            with self.open(path) as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            return None
        if len(data) > limit:
            raise CorruptArtifact(f"{self.address(path)} is larger than {limit} bytes")
        return data

    def write(self, path: str, data: bytes) -> None:
        parent, name = _split(path)
        with (
            files.room(self.root, len(data)),
            self._folder(parent, create=True) as folder,
            self._explained(path),
        ):
            temporary = files.temporary_name(Path(name)).name
            try:
                self._write_new(folder, temporary, data)
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                _unlink(temporary, folder)
                raise
            os.fsync(folder)

    def remove(self, path: str) -> None:
        parent, name = _split(path)
        try:
            with self._folder(parent) as folder:
                if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    self._remove_tree(folder, name)
                else:
                    os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return

    def move(self, old: str, new: str) -> None:
        (old_parent, old_name), (new_parent, new_name) = _split(old), _split(new)
        with self._folder(old_parent) as source, self._folder(new_parent, create=True) as target:
            os.rename(old_name, new_name, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)
            os.fsync(source)

    def children(self, path: str) -> list[str]:
        try:
            with self._folder(path) as folder:
                return sorted(name for name in os.listdir(folder) if not files.is_temporary(Path(name)))
        except FileNotFoundError:
            return []

    def listing(self, path: str) -> dict[str, int]:
        return {
            name: status.st_size if stat.S_ISREG(status.st_mode) else -1
            for name, status in self._walk(path)
            if not stat.S_ISDIR(status.st_mode) or name.count("/") >= MAX_FOLDERS
        }

    def sha256(self, path: str) -> str:
        with self.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # has `readinto`

    @contextmanager
    def open(self, path: str) -> Iterator[BufferedIOBase]:
        with self._file(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file

    def commit(
        self,
        draft: Path,
        path: str,
        document: bytes,
        signature: bytes | None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        parent, name = _split(path)
        with files.room(draft, len(document)):
            files.write_atomic(draft / MANIFEST_NAME, document)
            if signature is not None:
                files.write_atomic(draft / SIGNATURE_NAME, signature)
        check()
        with files.room(self.root), self._folder(parent, create=True) as folder:
            files.set_modes(draft, *self._modes())
            try:
                _rename_whole(draft, name, None, folder)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self._copy_whole(draft, name, folder)
            os.fsync(folder)

    def path(self, path: str) -> Path:
        """Where `path` lies on this disk."""
        return self.root / path

    def download(self, path: str, target: Path) -> None:
        with files.room(target.parent), self.open(path) as source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy)

    @contextmanager
    def lease(self, name: str, wait_message: WaitMessage | None) -> Iterator[Lease]:
        with ExitStack() as held:
            with files.room(self.root):  # not around the block: another disk may fill up there
                folder = held.enter_context(self._folder(LEASES, create=True))
                lock = leases.file_lease(folder, f"{name}.lock", wait_message, self._modes()[1])
                lease = held.enter_context(lock)
            yield lease

    def held_leases(self) -> list[str]:
        try:
            with self._folder(LEASES) as folder:
                locks = [name for name in os.listdir(folder) if name.endswith(".lock")]
                return sorted(n.removesuffix(".lock") for n in locks if leases.file_is_held(folder, n))
        except FileNotFoundError:
            return []

    def stale(self) -> list[str]:
        left = [f"{TEMPORARY}/{name}" for name in self.children(TEMPORARY)]
        left += [
            f"{top}/{name}"
            for top in ("keys", "refs")
            for name, _ in self._walk(top)
            if files.is_temporary(Path(name))
        ]
        return [path for path in left if time.time() - self._newest(path) > STALE_SECONDS]

    def address(self, path: str) -> str:
        return str(self.root / path)

    @contextmanager
    def temporary(self) -> Iterator[str]:
        """A fresh folder in the store (its path); what is left of it at the end is removed."""
        path = f"{TEMPORARY}/{uuid.uuid4().hex}"
        with self._folder(path, create=True):
            pass
        try:
            yield path
        finally:
            self.remove(path)

    @contextmanager
    def _folder(self, path: str, create: bool = False) -> Iterator[int]:
        """A descriptor of the folder at `path`; `create` makes what is missing, every new name synced.

        Raises:
            FileNotFoundError: it does not exist.
            CorruptArtifact: a link or a file stands in its place, or it may not be read.
        """
        if create:
            files.make_directory(self.root.parent)
            self.root.mkdir(mode=0o700, exist_ok=True)
        with self._explained(""):
            descriptor = os.open(self.root, _FOLDER & ~os.O_NOFOLLOW)
        try:
            for segment in PurePosixPath(path).parts:
                with self._explained(path):
                    inner = self._open_folder(descriptor, segment, create)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_folder(self, parent: int, name: str, create: bool) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=parent)
        except FileNotFoundError:
            if not create:
                raise
        mode = self._modes()[0]
        try:
            os.mkdir(name, mode, dir_fd=parent)
        except FileExistsError:  # another process made it meanwhile
            return os.open(name, _FOLDER, dir_fd=parent)
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
        os.fchmod(descriptor, mode)  # the umask may have taken from it
        os.fsync(parent)
        return descriptor

    @contextmanager
    def _file(self, path: str) -> Iterator[int]:
        """A descriptor of the plain file at `path`."""
        parent, name = _split(path)
        with self._folder(parent) as folder:
            with self._explained(path):
                descriptor = os.open(name, _FILE, dir_fd=folder)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise CorruptArtifact(f"{self.address(path)} is not a plain file")
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """What cannot be opened because of what stands in its place is damage of the store."""
        try:
            yield
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            link = error.errno in (errno.ELOOP, errno.ENOTDIR)
            reason = "a link or a file stands in the place of a folder" if link else error.strerror
            raise CorruptArtifact(f"{self.address(path)}: {reason}") from error

    def _walk(self, path: str) -> Iterator[tuple[str, os.stat_result]]:
        """Everything below `path` with its status, folders too, sorted in each; no deeper than `MAX_FOLDERS`.

        Raises:
            CorruptArtifact: more entries than any artifact has.
        """
        waiting, count = [""], 0
        while waiting:
            below = waiting.pop()
            try:
                with self._folder(f"{path}/{below}") as folder, os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
                    statuses = [(e.name, e.stat(follow_symlinks=False)) for e in entries]
            except FileNotFoundError:
                continue  # it is gone since it was seen
            count += len(statuses)
            if count > _MAX_ENTRIES:
                raise CorruptArtifact(f"{self.address(path)} holds more than {_MAX_ENTRIES} files")
            for name, status in statuses:
                inner = f"{below}{name}"
                yield inner, status
                if stat.S_ISDIR(status.st_mode) and inner.count("/") < MAX_FOLDERS:
                    waiting.append(f"{inner}/")

    def _newest(self, path: str) -> float:
        parent, name = _split(path)
        with self._folder(parent) as folder:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        times = [status.st_mtime]
        if stat.S_ISDIR(status.st_mode):
            times += [inner.st_mtime for _, inner in self._walk(path)]
        return max(times)

    def _remove_tree(self, folder: int, name: str) -> None:
        """An artifact disappears at once, as it appeared: it is renamed first, then deleted."""
        doomed = uuid.uuid4().hex
        with self._folder(TEMPORARY, create=True) as temporary:
            os.rename(name, doomed, src_dir_fd=folder, dst_dir_fd=temporary)
            shutil.rmtree(doomed, dir_fd=temporary)

    def _write_new(self, folder: int, name: str, data: bytes) -> None:
        mode = self._modes()[1]
        with os.fdopen(os.open(name, _NEW, mode, dir_fd=folder), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _copy_whole(self, draft: Path, name: str, folder: int) -> None:
        """As a rename, for a draft on another disk. Nothing is copied where there is no room for it."""
        found = files.entries(draft)
        size = sum(source.stat().st_size for source in found.values())
        files.require_room(self.root, size)
        with files.room(self.root, size), self.temporary() as staged:
            for relative, source in found.items():
                parent, file_name = _split(f"{staged}/{relative}")
                with self._folder(parent, create=True) as target, source.open("rb") as original:
                    mode = self._modes()[1]
                    with os.fdopen(os.open(file_name, _NEW, mode, dir_fd=target), "wb") as copy:
                        os.fchmod(copy.fileno(), mode)
                        shutil.copyfileobj(original, copy)
                        copy.flush()
                        os.fsync(copy.fileno())
                    os.fsync(target)
            with self._folder(TEMPORARY) as temporary:
                _rename_whole(_split(staged)[1], name, temporary, folder)

    def _modes(self) -> tuple[int, int]:
        """Of new folders and new files."""
        mode = stat.S_IMODE(os.stat(self.root).st_mode)
        shared = 0 if mode & 0o007 else mode & _GROUP_AND_INHERITANCE
        return 0o700 | shared, 0o600 | shared & 0o060


def _split(path: str) -> tuple[str, str]:
    """Folder and name."""
    folder, _, name = path.rpartition("/")
    return folder, name


def _rename_whole(draft: Path | str, name: str, source: int | None, folder: int) -> None:
    """Rename; where `name` is there already it has the same digest, so the same bytes."""
    try:
        os.rename(draft, name, src_dir_fd=source, dst_dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
