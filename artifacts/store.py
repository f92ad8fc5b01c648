"""The artifact store: immutable directories named by the SHA-256 of their manifest.

    STORE/
      objects/ab/cdef…/manifest.json, files     an artifact; appears whole by one rename
      keys/ab/cdef….json                        cache key -> artifact
      refs/tiny/r1-zero.json                    name -> artifact
      leases/  tmp/  quarantine/

A key's entry is written before its artifact appears: an entry without an artifact is a miss, so a crash
between the two costs nothing and an artifact can always be found by its key.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from artifacts.backends import Backend, LocalBackend, open_backend
from artifacts.checks import Time, first_reason, parse_json, redacted, ref_name
from artifacts.errors import (
    CorruptArtifact,
    DamagedName,
    RefusedDraft,
    StoreError,
    StoreUnavailable,
    UnknownArtifact,
    UntrustedArtifact,
)
from artifacts.integrity import Damage, damages, misfit
from artifacts.keys import canonical_json
from artifacts.leases import Lease, WaitMessage
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest, ManifestDraft, seal
from artifacts.refs import Digest, Ref
from artifacts.trust import MAX_SIGNATURE, Trust, trust_folder

if TYPE_CHECKING:
    from artifacts.tables import Tables

Report = Callable[[StoreError], None]
"""Is told of an entry that is skipped because it is damaged."""
_HEX = re.compile(r"[0-9a-f]{4,64}")
_KEY_NAME = re.compile(r"[0-9a-f]{62}\.json")
_TOP_NAME = re.compile(r"[0-9a-f]{2}")
_DIGEST_CHARACTERS = 8
"""From so many hexadecimal digits on, a text means a digest and never a name."""

_verified: set[tuple[str, str]] = set()
"""(store, digest) of what this process has hashed and found whole."""


def store_url() -> str:
    """The store this process uses: `$R1_STORE`, or `store` in `$R1_HOME` (`.r1`)."""
    return os.environ.get("R1_STORE") or os.path.join(os.environ.get("R1_HOME") or ".r1", "store")


def cache_root() -> Path:
    """Where artifacts of remote stores are kept on this machine: `$R1_CACHE`, or `~/.cache/r1`."""
    return Path(os.environ.get("R1_CACHE", "~/.cache/r1")).expanduser()


class KeyEntry(BaseModel):
    """`keys/…`: which artifact a cache key names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Digest
    ref: Ref


class NamedRef(BaseModel):
    """`refs/…`: the artifact a name stands for now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    ref: Ref
    updated_at: Time
    """When the name came to mean this artifact."""


def object_path(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest[2:]}"


def key_path(key: str) -> str:
    return f"keys/{key[:2]}/{key[2:]}.json"


def ref_path(name: str) -> str:
    """Raises `StoreError` on a name that is no path of plain segments."""
    try:
        return f"refs/{ref_name(name)}.json"
    except ValueError as error:
        raise StoreError(f"{name!r} is no ref name: {error}") from error


def skip_silently(error: StoreError) -> None:
    """A `Report` for whoever only wants what is whole; `r1 verify` names the rest."""


class ArtifactStore:
    """One store. Safe to use from many processes and threads."""

    def __init__(self, backend: Backend, trust: Trust) -> None:
        self.backend = backend
        self.trust = trust

    @classmethod
    def open(cls, url: str | None = None, trust: Trust | None = None) -> ArtifactStore:
        """A path, `file://` or any fsspec URL; `store_url()` by default. Nothing is created yet.

        `trust` is that of the installation by default, so that no caller can forget it.
        """
        return cls(open_backend(url or store_url()), trust or Trust.load(trust_folder()))

    def require_folder(self) -> None:
        """Raises StoreError where something else than a folder stands in the place of a store on a disk."""
        if (
            isinstance(self.backend, LocalBackend)
            and self.backend.root.exists()
            and not self.backend.root.is_dir()
        ):
            raise StoreError(f"the store {self.url} is no folder: set R1_STORE to one")

    @property
    def url(self) -> str:
        """The store's address as it may be shown: without credentials."""
        return redacted(self.backend.url)

    # Artifacts

    def lookup(self, key: str) -> Ref | None:
        """The artifact of a cache key, or None.

        None: never built, half built, its manifest is not intact, a file of it is missing or has another
        size, or nobody that is trusted signed it. Files are not read: that is what `fetch` does.

        Raises:
            StoreUnavailable: the store cannot be reached, which is no reason to build everything again.
        """
        try:
            entry = self._key_entry(key)
        except ValueError:  # the entry is damaged; the artifact may be whole
            return self._recovered(key)
        return entry.ref if entry is not None and self._is_of(entry.ref, key) else None

    def find(self, key: str) -> Ref | None:
        """As `lookup`, but reads every manifest before it says that the artifact of an entry is not there.

        For whoever builds otherwise: one wrong digit in an entry must not cost a stage.
        """
        return self.lookup(key) or (self._recovered(key) if self.key_target(key) else None)

    def misfit(self, manifest: Manifest) -> Damage | None:
        """What a listing of an artifact's files tells against it; no file is read."""
        found = self.backend.listing(object_path(manifest.digest))
        return next((damage for file in manifest.files if (damage := misfit(found, file))), None)

    def publish(
        self, draft: Path, manifest: ManifestDraft, tables: Tables, lease: Lease | None = None
    ) -> Ref:
        """Make the folder `draft` the artifact of `manifest.key`; the draft belongs to the store then.

        Every `*.parquet` file must be one of `tables`, which maps their names to their schemas. A key that
        already has an artifact keeps it, and the draft is left alone.

        Raises:
            RefusedDraft: the draft is empty, holds a link, or a `*.parquet` file of no or another schema.
            LeaseLost: somebody else may be building the key by now (`lease`).
            StoreFull: there is no room for it; nothing of it stays in the store.
        """
        from artifacts.draft import draft_files  # pyarrow: only builders need it

        published = self.lookup(manifest.key)
        if published is not None:
            return published
        files = draft_files(draft, manifest.key, tables)
        try:
            document, sealed = seal(manifest, files)
        except CorruptArtifact as error:
            raise RefusedDraft(f"the draft {draft} is refused: its {error}") from error
        check = lease.check if lease else _hold_nothing
        check()
        self.set_key(sealed)
        self.backend.commit(draft, object_path(sealed.digest), document, self.trust.sign(document), check)
        return sealed.ref

    def sign(self, ref: Ref) -> None:
        """Vouch for an artifact that somebody else wrote, or that was made before there was a key.

        Raises:
            StoreError: it is not whole, or this installation has no key.
        """
        document, manifest = self._read(ref.digest)
        for damage in damages(self.backend, manifest, object_path(ref.digest)):
            raise self._damaged(self.backend, manifest, object_path(ref.digest), damage)
        signature = self.trust.sign(document)
        if signature is None:
            raise StoreError("this installation has no key to sign with: `trust on` makes one")
        self.backend.write(f"{object_path(ref.digest)}/{SIGNATURE_NAME}", signature)

    def manifest(self, digest_or_prefix: str) -> Manifest:
        """The manifest of an artifact, by its digest or a unique beginning of it (4 digits or more).

        Raises:
            UnknownArtifact: there is none, or more than one.
            CorruptArtifact: the manifest is not the one that was published.
        """
        return self._read(self._digest(digest_or_prefix))[1]

    def fetch(self, ref: Ref) -> Path:
        """The artifact's folder on this machine, every byte verified once per process. Read only.

        Raises:
            UnknownArtifact: it is not in the store.
            UntrustedArtifact: trust is required, and nobody that is trusted signed it.
            CorruptArtifact: a file is missing, extra or changed; the message names it.
        """
        manifest = self._trusted(ref.digest)
        if manifest.kind != ref.kind:
            raise UnknownArtifact(f"artifact {ref.short} is a {manifest.kind}, not a {ref.kind}")
        local, path = self._local(), object_path(ref.digest)
        if (self.backend.url, ref.digest) not in _verified or not local.path(path).is_dir():
            if local is not self.backend:
                self._download(local, manifest)
            else:
                self._refuse_damage(local, manifest, path)
            _verified.add((self.backend.url, ref.digest))
        return local.path(path)

    def objects(self, report: Report = skip_silently) -> Iterator[Manifest]:
        """Every artifact's manifest, in the order of the digests; `report` is told of the damaged ones."""
        for digest in self.digests():
            try:
                yield self._read(digest)[1]
            except UnknownArtifact:
                continue  # an upload under way
            except StoreUnavailable:
                raise
            except StoreError as error:
                report(error)

    def digests(self) -> list[str]:
        """The names of all artifacts, whole or not."""
        return [name for name in self._object_names() if _is_digest(name)]

    def strays(self) -> list[str]:
        """Paths in `objects/` and `keys/` that belong to no artifact and no key."""
        digests, keys = set(self.digests()), set(self.indexed_keys())
        return [
            *self._strays("objects", lambda name: name in digests),
            *self._strays("keys", lambda name: name.removesuffix(".json") in keys),
        ]

    def _strays(self, folder: str, is_known: Callable[[str], bool]) -> Iterator[str]:
        for top in self._children(folder):
            try:
                names = self.backend.children(f"{folder}/{top}")
            except CorruptArtifact:
                names = [""]  # a file
            if not _TOP_NAME.fullmatch(top) or names == [""]:
                yield f"{folder}/{top}"
                continue
            yield from (f"{folder}/{top}/{name}" for name in names if not is_known(top + name))

    def set_aside(self, path: str) -> None:
        """Move a file or folder of the store to `quarantine/`; nothing where it is gone already."""
        with suppress(FileNotFoundError):
            self.backend.move(path, f"quarantine/{path.replace('/', '-')[-200:]}-{uuid.uuid4().hex[:8]}")

    def quarantine(self, digest: str) -> None:
        """Move an artifact aside (to `quarantine/`), so that its key is a miss again."""
        if self.backend.listing(object_path(digest)):
            self.backend.move(object_path(digest), f"quarantine/{digest}-{uuid.uuid4().hex[:8]}")
        _verified.discard((self.backend.url, digest))
        for key in self.indexed_keys():
            target = self.key_target(key)
            if target is not None and target.digest == digest:
                self.backend.remove(key_path(key))

    # Keys

    def lease(self, key: str, wait_message: WaitMessage | None = None) -> AbstractContextManager[Lease]:
        """Be the only builder of `key`; waits for another one, after calling `wait_message(text)` once.

        Look the key up again inside: the other builder may have published it. Give the lease to `publish`.
        """
        return self.backend.lease(key, wait_message)

    def indexed_keys(self) -> list[str]:
        """Every key that has an entry; files with other names are none of the store's."""
        return [
            (top + name).removesuffix(".json")
            for top in self._children("keys")
            if len(top) == 2
            for name in self._children(f"keys/{top}")
            if _KEY_NAME.fullmatch(name) and _HEX.fullmatch(top + name[:2])
        ]

    def set_key(self, manifest: Manifest) -> None:
        """Write the key's entry, atomically."""
        entry = KeyEntry(key=manifest.key, ref=manifest.ref)
        self.backend.write(key_path(manifest.key), canonical_json(entry.model_dump(mode="json")))

    def forget_key(self, key: str) -> None:
        """Make the key a miss again, so that it is built anew; the artifact stays under its names."""
        self.backend.remove(key_path(key))

    def key_target(self, key: str) -> Ref | None:
        """What the key's entry names, whether or not it is there; None where the entry is not one."""
        try:
            entry = self._key_entry(key)
        except ValueError:
            return None
        return entry.ref if entry else None

    def _key_entry(self, key: str) -> KeyEntry | None:
        """None where there is none, or something that is no plain file.

        Raises:
            ValueError: its bytes are not an entry of this key.
        """
        if not _is_digest(key):
            return None
        try:
            document = self.backend.read(key_path(key))
        except CorruptArtifact:
            return None
        entry = None if document is None else KeyEntry.model_validate(parse_json(document))
        if entry is not None and entry.key != key:
            raise ValueError(f"it is the entry of {entry.key}")
        return entry

    def _is_of(self, ref: Ref, key: str) -> bool:
        """Whether the artifact may be used, is that of `key`, and its files are there in their sizes."""
        try:
            manifest = self._trusted(ref.digest)
            return (manifest.key, manifest.kind) == (key, ref.kind) and self.misfit(manifest) is None
        except StoreUnavailable:
            raise
        except StoreError:
            return False

    def _recovered(self, key: str) -> Ref | None:
        """The artifact of a key by the manifests, whose entry is written anew; None where there is none."""
        for manifest in self.objects():
            if manifest.key == key and self._is_of(manifest.ref, key):
                with suppress(StoreError, OSError):  # a store that is only read has it found again and again
                    self.set_key(manifest)
                return manifest.ref
        return None

    # Names

    def set_ref(self, name: str, ref: Ref) -> None:
        """Let `name` (such as `tiny/r1-zero`) stand for `ref`, atomically; unchanged names keep their time.

        Raises:
            UnknownArtifact: the artifact is not in the store.
        """
        path = ref_path(name)
        if self.manifest(ref.digest).kind != ref.kind:
            raise UnknownArtifact(f"artifact {ref.short} is no {ref.kind}: {name} was not set")
        try:
            before = self.get_ref(name)
        except DamagedName:
            before = None
        if before != ref:
            named = NamedRef(name=name, ref=ref, updated_at=datetime.now(UTC))
            self.backend.write(path, canonical_json(named.model_dump(mode="json")))

    def get_ref(self, name: str) -> Ref | None:
        """What `name` stands for, or None."""
        named = self._named(name)
        return named.ref if named else None

    def refs(self, report: Report = skip_silently) -> dict[str, NamedRef]:
        """Every name, sorted; `report` is told of files that are no refs or whose name none may have."""
        found: dict[str, NamedRef] = {}
        for name in self.ref_names():
            try:
                named = self._named(name)
            except StoreUnavailable:
                raise
            except StoreError as error:
                report(error)
                continue
            if named is not None:
                found[name] = named
        return found

    def ref_names(self) -> list[str]:
        """The names of all files that should be refs, whether or not they are."""
        try:
            paths = self.backend.listing("refs")
        except CorruptArtifact:
            return []  # a link in the place of `refs/`: `verify` names it
        return sorted(path.removesuffix(".json") for path in paths if path.endswith(".json"))

    def drop_ref(self, name: str) -> None:
        """Forget a name; what only it reached is then garbage."""
        self.backend.remove(ref_path(name))

    def resolve(self, text: str, preset: str | None = None) -> Ref:
        """What a user calls an artifact: a name, a node of `preset`, a digest or its unique beginning.

        Text of 8 or more hexadecimal digits is never looked up as a name.

        Raises:
            UnknownArtifact: nothing answers to it; lists the names near it.
        """
        like_a_digest = _HEX.fullmatch(text)
        if not (like_a_digest and len(text) >= _DIGEST_CHARACTERS):
            for name in (text, f"{preset}/{text}" if preset else text):
                named = self._named(name) if is_ref_name(name) else None
                if named is not None:
                    return named.ref
        if like_a_digest:
            return self.manifest(text).ref
        raise UnknownArtifact(f"no artifact is called {text!r}: {self._near(text, preset)}")

    def _near(self, text: str, preset: str | None) -> str:
        names = self.ref_names()
        if not names:
            return f"{self.url} holds no names yet"
        wanted = text if "/" in text or not preset else f"{preset}/{text}"
        near = get_close_matches(wanted, names, 5, 0.5) or [n for n in names if text in n][:5] or names[:8]
        return f"did you mean {', '.join(near)}?"

    def _named(self, name: str) -> NamedRef | None:
        path = ref_path(name)
        document = self.backend.read(path)
        try:
            named = None if document is None else NamedRef.model_validate(parse_json(document))
        except ValueError as error:
            where = self.backend.address(path)
            raise DamagedName(f"{where} is not a ref ({first_reason(error)})") from error
        if named is not None and named.name != name:
            raise DamagedName(f"{self.backend.address(path)} names {named.name}")
        return named

    # Reading

    def _read(self, digest: str) -> tuple[bytes, Manifest]:
        """The bytes of a manifest, which are those that were published, and what they say."""
        path = f"{object_path(digest)}/{MANIFEST_NAME}"
        document = self.backend.read(path)
        if document is None:
            raise UnknownArtifact(f"no artifact {digest[:12]} in {self.url}")
        if sha256(document).hexdigest() != digest:
            raise CorruptArtifact(f"{self.backend.address(path)} has other bytes than were published")
        return document, Manifest.parse(document, self.backend.address(path))

    def _trusted(self, digest: str) -> Manifest:
        """The manifest of an artifact that may be used."""
        document, manifest = self._read(digest)
        if self.trust.required:
            signature = self.backend.read(f"{object_path(digest)}/{SIGNATURE_NAME}", MAX_SIGNATURE)
            if not self.trust.accepts(document, signature):
                raise UntrustedArtifact(
                    f"artifact {digest[:12]} ({manifest.node}) in {self.url} is not signed by a trusted key"
                )
        return manifest

    def _children(self, path: str) -> list[str]:
        """As `backend.children`; nothing where something else than a folder stands, which `verify` names."""
        try:
            return self.backend.children(path)
        except CorruptArtifact:
            return []

    def _object_names(self) -> list[str]:
        tops = self._children("objects")
        return [top + name for top in tops for name in self._children(f"objects/{top}")]

    def _digest(self, text: str) -> str:
        if not _HEX.fullmatch(text):
            raise UnknownArtifact(f"{text!r} is no digest: give 4 to 64 hexadecimal digits")
        if len(text) == 64:
            return text
        matches = [digest for digest in self.digests() if digest.startswith(text)]
        if len(matches) != 1:
            many = f"{len(matches)} artifacts begin with {text}: give more digits"
            raise UnknownArtifact(many if matches else f"no artifact begins with {text}")
        return matches[0]

    def _refuse_damage(self, backend: Backend, manifest: Manifest, folder: str) -> None:
        for damage in damages(backend, manifest, folder):
            raise self._damaged(backend, manifest, folder, damage)

    def _damaged(self, backend: Backend, manifest: Manifest, folder: str, damage: Damage) -> CorruptArtifact:
        where = backend.address(f"{folder}/{damage.path}")
        return CorruptArtifact(f"{where} {damage.what} (artifact {manifest.ref.short}, {manifest.node})")

    def _local(self) -> LocalBackend:
        """The store itself, or this machine's cache of it."""
        if isinstance(self.backend, LocalBackend):
            return self.backend
        return LocalBackend(cache_root() / sha256(self.backend.url.encode()).hexdigest()[:16])

    def cache(self) -> ArtifactStore | None:
        """What this machine keeps of a remote store; None where the store itself is on this machine."""
        local = self._local()
        return None if local is self.backend else ArtifactStore(local, self.trust)

    def _download(self, cache: LocalBackend, manifest: Manifest) -> None:
        """Bring the artifact into `cache`, where it is not there whole.

        The files go to a new folder. Their paths were checked with the manifest, their sizes are compared
        before a byte is loaded, and their hashes before the folder takes its place in the cache.
        """
        path = object_path(manifest.digest)
        if cache.children(path):
            if not damages(cache, manifest, path):
                return
            cache.remove(path)
        found = self.backend.listing(path)
        for file in manifest.files:
            if damage := misfit(found, file):
                raise self._damaged(self.backend, manifest, path, damage)
        with cache.temporary() as staged:
            for file in manifest.files:
                target = cache.path(staged) / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                self.backend.download(f"{path}/{file.path}", target)
            self._refuse_damage(cache, manifest, staged)
            cache.commit(cache.path(staged), path, self._read(manifest.digest)[0], None)


def _hold_nothing() -> None:
    """Nothing to check: whoever publishes without a lease knows that nobody else builds the key."""


def _is_digest(text: str) -> bool:
    return len(text) == 64 and _HEX.fullmatch(text) is not None


def is_ref_name(text: str) -> bool:
    """Whether an artifact can be called so."""
    try:
        ref_name(text)
    except ValueError:
        return False
    return True
