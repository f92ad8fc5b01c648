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
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from artifacts.backends import Backend, LocalBackend, open_backend
from artifacts.errors import CorruptArtifact, StoreError, UnknownArtifact
from artifacts.integrity import damages
from artifacts.keys import canonical_json
from artifacts.leases import WaitMessage
from artifacts.manifest import MANIFEST_NAME, Manifest, ManifestDraft, seal
from artifacts.refs import Digest, Ref

if TYPE_CHECKING:
    from artifacts.tables import Tables

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*)*")
_HEX = re.compile(r"[0-9a-f]{4,64}")

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
    updated_at: AwareDatetime
    """When the name came to mean this artifact."""


def object_path(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest[2:]}"


def key_path(key: str) -> str:
    return f"keys/{key[:2]}/{key[2:]}.json"


def ref_path(name: str) -> str:
    """Raises `StoreError` on a name that is no path of plain segments."""
    if not _NAME.fullmatch(name):
        raise StoreError(f"{name!r} is no ref name: use PRESET/NODE with letters, digits and . _ : @ + -")
    return f"refs/{name}.json"


class ArtifactStore:
    """One store. Safe to use from many processes and threads."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @classmethod
    def open(cls, url: str | None = None) -> ArtifactStore:
        """A path, `file://` or any fsspec URL; `store_url()` by default. Nothing is created yet."""
        return cls(open_backend(url or store_url()))

    @property
    def url(self) -> str:
        return self.backend.url

    # Artifacts

    def lookup(self, key: str) -> Ref | None:
        """The artifact of a cache key, or None: never built, half built, or its manifest is not intact."""
        entry = self._key_entry(key)
        if entry is None:
            return None
        document = self.backend.read(f"{object_path(entry.ref.digest)}/{MANIFEST_NAME}")
        if document is None or sha256(document).hexdigest() != entry.ref.digest:
            return None
        manifest = Manifest.parse(document, entry.ref.digest)
        return entry.ref if (manifest.key, manifest.kind) == (key, entry.ref.kind) else None

    def publish(self, draft: Path, manifest: ManifestDraft, tables: Tables) -> Ref:
        """Make the folder `draft` the artifact of `manifest.key`; the draft belongs to the store then.

        Every `*.parquet` file must be one of `tables`, which maps their names to their schemas. A key that
        already has an artifact keeps it, and the draft is left alone.

        Raises:
            RefusedDraft: the draft is empty, holds a link, or a `*.parquet` file of no or another schema.
        """
        from artifacts.draft import draft_files  # pyarrow: only builders need it

        published = self.lookup(manifest.key)
        if published is not None:
            return published
        document, sealed = seal(manifest, draft_files(draft, manifest.key, tables))
        self.set_key(sealed)
        self.backend.commit(draft, object_path(sealed.digest), document)
        return sealed.ref

    def manifest(self, digest_or_prefix: str) -> Manifest:
        """The manifest of an artifact, by its digest or a unique beginning of it (4 digits or more).

        Raises:
            UnknownArtifact: there is none, or more than one.
            CorruptArtifact: the manifest is not the one that was published.
        """
        digest = self._digest(digest_or_prefix)
        path = f"{object_path(digest)}/{MANIFEST_NAME}"
        document = self.backend.read(path)
        if document is None:
            raise UnknownArtifact(f"no artifact {digest[:12]} in {self.url}")
        manifest = Manifest.parse(document, self.backend.address(path))
        if manifest.digest != digest:
            raise CorruptArtifact(f"{self.backend.address(path)} has other bytes than were published")
        return manifest

    def fetch(self, ref: Ref) -> Path:
        """The artifact's folder on this machine, every byte verified once per process. Read only.

        Raises:
            UnknownArtifact: it is not in the store.
            CorruptArtifact: a file is missing, extra or changed; the message names it.
        """
        manifest = self.manifest(ref.digest)
        if manifest.kind != ref.kind:
            raise UnknownArtifact(
                f"artifact {ref.short} is a {manifest.kind}, not a {ref.kind}: name another"
            )
        local, path = self._local(), object_path(ref.digest)
        if (self.url, ref.digest) not in _verified or not local.path(path).is_dir():
            if local is not self.backend:
                self._download(local, manifest)
            self._refuse_damage(local, manifest)
            _verified.add((self.url, ref.digest))
        return local.path(path)

    def objects(self) -> Iterator[Manifest]:
        """Every artifact's manifest, in the order of the digests.

        Raises:
            CorruptArtifact: a manifest is damaged.
        """
        for digest in self.digests():
            if self.backend.read(f"{object_path(digest)}/{MANIFEST_NAME}") is not None:
                yield self.manifest(digest)

    def digests(self) -> list[str]:
        """The names of all artifacts, whole or not."""
        return [name for name in self._object_names() if len(name) == 64 and _HEX.fullmatch(name)]

    def strays(self) -> list[str]:
        """Paths in `objects/` that are no artifact's."""
        known = set(self.digests())
        return [f"objects/{name[:2]}/{name[2:]}" for name in self._object_names() if name not in known]

    def quarantine(self, digest: str) -> None:
        """Move an artifact aside (to `quarantine/`), so that its key is a miss again."""
        if self.backend.listing(object_path(digest)):
            self.backend.move(object_path(digest), f"quarantine/{digest}-{uuid.uuid4().hex[:8]}")
        _verified.discard((self.url, digest))
        for key in self.indexed_keys():
            entry = self._key_entry(key)
            if entry is not None and entry.ref.digest == digest:
                self.backend.remove(key_path(key))

    # Keys

    def lease(self, key: str, wait_message: WaitMessage | None = None) -> AbstractContextManager[None]:
        """Be the only builder of `key`; waits for another one, after calling `wait_message(text)` once.

        Look the key up again inside: the other builder may have published it.
        """
        return self.backend.lease(key, wait_message)

    def indexed_keys(self) -> list[str]:
        """Every key that has an entry."""
        tops = self.backend.children("keys")
        names = [top + name for top in tops for name in self.backend.children(f"keys/{top}")]
        return [name.removesuffix(".json") for name in names]

    def set_key(self, manifest: Manifest) -> None:
        """Write the key's entry, atomically."""
        entry = KeyEntry(key=manifest.key, ref=manifest.ref)
        self.backend.write(key_path(manifest.key), canonical_json(entry.model_dump(mode="json")))

    def key_target(self, key: str) -> Ref | None:
        """What the key's entry names, whether or not it is there; None where the entry is not one."""
        entry = self._key_entry(key)
        return entry.ref if entry else None

    def _key_entry(self, key: str) -> KeyEntry | None:
        """None where there is none, or its bytes are not an entry of this key."""
        document = self.backend.read(key_path(key))
        try:
            entry = None if document is None else KeyEntry.model_validate_json(document)
        except ValidationError:
            return None
        return entry if entry is not None and entry.key == key else None

    # Names

    def set_ref(self, name: str, ref: Ref) -> None:
        """Let `name` (such as `tiny/r1-zero`) stand for `ref`, atomically; unchanged names keep their time.

        Raises:
            UnknownArtifact: the artifact is not in the store.
        """
        path = ref_path(name)
        if self.manifest(ref.digest).kind != ref.kind:
            raise UnknownArtifact(f"artifact {ref.short} is no {ref.kind}: {name} was not set")
        if self.get_ref(name) != ref:
            named = NamedRef(name=name, ref=ref, updated_at=datetime.now(UTC))
            self.backend.write(path, canonical_json(named.model_dump(mode="json")))

    def get_ref(self, name: str) -> Ref | None:
        """What `name` stands for, or None."""
        named = self._named(name)
        return named.ref if named else None

    def refs(self) -> dict[str, NamedRef]:
        """Every name, sorted.

        Raises:
            CorruptArtifact: a ref's file is damaged.
        """
        found = ((name, self._named(name)) for name in self.ref_names())
        return {name: named for name, named in found if named is not None}

    def ref_names(self) -> list[str]:
        paths = self.backend.listing("refs")
        return sorted(path.removesuffix(".json") for path in paths if path.endswith(".json"))

    def drop_ref(self, name: str) -> None:
        """Forget a name; what only it reached is then garbage."""
        self.backend.remove(ref_path(name))

    def resolve(self, text: str, preset: str | None = None) -> Ref:
        """What a user calls an artifact: a name, a node of `preset`, a digest or its unique beginning.

        Raises:
            UnknownArtifact: nothing answers to it; lists the names near it.
        """
        for name in (text, f"{preset}/{text}" if preset else text):
            named = self._named(name) if _NAME.fullmatch(name) else None
            if named is not None:
                return named.ref
        if _HEX.fullmatch(text):
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
            named = None if document is None else NamedRef.model_validate_json(document)
        except ValidationError as error:
            raise CorruptArtifact(f"{self.backend.address(path)} is not a ref") from error
        if named is not None and named.name != name:
            raise CorruptArtifact(f"{self.backend.address(path)} names {named.name}")
        return named

    # Reading

    def _object_names(self) -> list[str]:
        tops = self.backend.children("objects")
        return [top + name for top in tops for name in self.backend.children(f"objects/{top}")]

    def _digest(self, text: str) -> str:
        if not _HEX.fullmatch(text):
            raise UnknownArtifact(f"{text!r} is no digest: give 4 to 64 hexadecimal digits")
        if len(text) == 64:
            return text
        matches = [n for n in self.backend.children(f"objects/{text[:2]}") if n.startswith(text[2:])]
        if len(matches) != 1:
            many = f"{len(matches)} artifacts begin with {text}: give more digits"
            raise UnknownArtifact(many if matches else f"no artifact begins with {text}")
        return text[:2] + matches[0]

    def _refuse_damage(self, backend: Backend, manifest: Manifest) -> None:
        folder = object_path(manifest.digest)
        for damage in damages(backend, manifest, folder):
            where = backend.address(f"{folder}/{damage.path}")
            raise CorruptArtifact(f"{where} {damage.what} (artifact {manifest.ref.short}, {manifest.node})")

    def _local(self) -> LocalBackend:
        """The store itself, or this machine's cache of it."""
        if isinstance(self.backend, LocalBackend):
            return self.backend
        return LocalBackend(cache_root() / sha256(self.url.encode()).hexdigest()[:16])

    def _download(self, cache: LocalBackend, manifest: Manifest) -> None:
        """Bring the artifact into `cache`, where it is not there whole."""
        path = object_path(manifest.digest)
        if cache.path(path).is_dir():
            if not damages(cache, manifest, path):
                return
            cache.remove(path)
        staged = cache.temporary()
        for file in manifest.files:
            (staged / file.path).parent.mkdir(parents=True, exist_ok=True)
            self.backend.download(f"{path}/{file.path}", staged / file.path)
        document = self.backend.read(f"{path}/{MANIFEST_NAME}")
        assert document is not None
        cache.commit(staged, path, document)
