"""Looking after a store: finding damage, moving it aside, and removing what no name reaches."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from artifacts.backends import LocalBackend
from artifacts.errors import CorruptArtifact, StoreBusy, UnknownArtifact
from artifacts.integrity import damages
from artifacts.manifest import MANIFEST_NAME, Manifest
from artifacts.refs import Ref
from artifacts.store import ArtifactStore, key_path, object_path, ref_path


class Fault(StrEnum):
    """What kind of damage it is; whoever shows it to a user knows what to do about it."""

    damaged = "damaged"
    """An artifact has other bytes or files than were published; `repair` moves it aside."""
    index = "index"
    """A key entry is wrong or missing; `repair` writes it anew."""
    name = "name"
    """A ref's file is not a ref, or calls an artifact what it is not."""
    gone = "gone"
    """A name or an artifact refers to an artifact that the store no longer has."""
    stray = "stray"
    """Something that belongs to no artifact."""


@dataclass(frozen=True)
class StoreDamage:
    """Something in the store that is not as it should be."""

    where: str
    """The file, as other tools name it."""
    what: str
    fault: Fault
    digest: str | None = None
    """The damaged artifact, if it is one."""


def verify(store: ArtifactStore) -> list[StoreDamage]:
    """Every changed byte, missing or extra file, bad key entry and name or parent of nothing.

    Reads the whole store. Manifests, files, key entries and names are covered; not the times of names.
    """
    return [*_object_findings(store), *_key_findings(store), *_ref_findings(store)]


def repair(store: ArtifactStore, findings: Iterable[StoreDamage]) -> list[str]:
    """Move damaged artifacts to `quarantine/` and rewrite the key index; returns what was done.

    Names and children of what was moved stay: building again restores the names.
    """
    digests = sorted({finding.digest for finding in findings if finding.digest})
    for digest in digests:
        store.quarantine(digest)
    done = [f"moved artifact {digest[:12]} to quarantine" for digest in digests]
    return done + _reindex(store)


@dataclass(frozen=True)
class Garbage:
    """What `gc` removes."""

    objects: tuple[Manifest, ...]
    """No name reaches them through parents."""
    stale: tuple[str, ...]
    """Left by crashes: temporary files, unfinished uploads."""
    keys: tuple[str, ...]
    """Key entries of artifacts that are not there."""

    @property
    def size(self) -> int:
        """Bytes of the objects."""
        return sum(manifest.size for manifest in self.objects)


def reachable(store: ArtifactStore, forget: Collection[str] = ()) -> set[str]:
    """The digests of everything a name (not one of `forget`) reaches, directly or through parents."""
    seen: set[str] = set()
    waiting = [named.ref for name, named in store.refs().items() if name not in forget]
    while waiting:
        ref = waiting.pop()
        if ref.digest not in seen:
            seen.add(ref.digest)
            waiting.extend(_parents(store, ref))
    return seen


def gc(store: ArtifactStore, dry_run: bool = True, forget: Collection[str] = ()) -> Garbage:
    """What no name reaches; deleted, and the names in `forget` too, unless `dry_run`.

    Raises:
        StoreBusy: a build is running, whose artifact may have no name yet.
        CorruptArtifact: a manifest is damaged, so what it reaches is not known.
    """
    if not dry_run and (held := store.backend.held_leases()):
        raise StoreBusy(f"a build of {held[0][:12]} is running in {store.url}")
    kept, there = reachable(store, forget), list(store.objects())
    present = {manifest.digest for manifest in there}
    garbage = Garbage(
        tuple(manifest for manifest in there if manifest.digest not in kept),
        tuple(store.backend.stale()),
        tuple(
            key
            for key in store.indexed_keys()
            if (ref := store.key_target(key)) is None or ref.digest not in present
        ),
    )
    if not dry_run:
        for name in forget:
            store.drop_ref(name)
        _delete(store, garbage)
    return garbage


def _delete(store: ArtifactStore, garbage: Garbage) -> None:
    for manifest in garbage.objects:
        target = store.key_target(manifest.key)
        if target is not None and target.digest == manifest.digest:
            store.backend.remove(key_path(manifest.key))
        store.backend.remove(object_path(manifest.digest))
    for path in (*garbage.stale, *map(key_path, garbage.keys)):
        store.backend.remove(path)


def _parents(store: ArtifactStore, ref: Ref) -> list[Ref]:
    """None for an artifact that is gone: `verify` reports it."""
    try:
        return list(store.manifest(ref.digest).parents.values())
    except UnknownArtifact:
        return []


def _object_findings(store: ArtifactStore) -> list[StoreDamage]:
    digests = store.digests()
    findings = [
        StoreDamage(store.backend.address(path), "is not an artifact", Fault.stray) for path in store.strays()
    ]
    for digest in digests:
        findings += _damage_findings(store, digest, set(digests))
    return findings


def _damage_findings(store: ArtifactStore, digest: str, there: set[str]) -> list[StoreDamage]:
    folder = object_path(digest)
    where = store.backend.address(f"{folder}/{MANIFEST_NAME}")
    document = store.backend.read(f"{folder}/{MANIFEST_NAME}")
    if document is None:
        # In an object store this is an upload under way, or abandoned: then `gc` removes it.
        local = isinstance(store.backend, LocalBackend)
        return [StoreDamage(where, "is missing", Fault.damaged, digest)] if local else []
    if sha256(document).hexdigest() != digest:
        return [StoreDamage(where, "has other bytes than were published", Fault.damaged, digest)]
    manifest = Manifest.parse(document, where)
    findings = [
        StoreDamage(store.backend.address(f"{folder}/{damage.path}"), damage.what, Fault.damaged, digest)
        for damage in damages(store.backend, manifest, folder)
    ]
    findings += [
        StoreDamage(where, f"has a parent {name} ({parent.short}) that is gone", Fault.gone)
        for name, parent in manifest.parents.items()
        if parent.digest not in there
    ]
    return findings


def _key_findings(store: ArtifactStore) -> list[StoreDamage]:
    bad = [
        StoreDamage(store.backend.address(key_path(key)), fault, Fault.index)
        for key in store.indexed_keys()
        if (fault := _key_fault(store, key))
    ]
    return bad + [
        StoreDamage(
            store.backend.address(key_path(key)),
            "is missing: the artifact of this key is not found",
            Fault.index,
        )
        for key in sorted({manifest.key for manifest in _whole(store)} - set(store.indexed_keys()))
    ]


def _key_fault(store: ArtifactStore, key: str) -> str | None:
    target = store.key_target(key)
    if target is None:
        return "is not an entry of its key"
    if store.lookup(key) is None:
        return f"names artifact {target.short}, which is not an intact artifact of this key"
    return None


def _ref_findings(store: ArtifactStore) -> list[StoreDamage]:
    findings = [_ref_finding(store, name) for name in store.ref_names()]
    return [finding for finding in findings if finding is not None]


def _ref_finding(store: ArtifactStore, name: str) -> StoreDamage | None:
    where = store.backend.address(ref_path(name))
    try:
        ref = store.get_ref(name)
    except CorruptArtifact:
        return StoreDamage(where, "is not a ref", Fault.name)
    if ref is None:
        return None  # forgotten meanwhile
    try:
        kind = store.manifest(ref.digest).kind
    except UnknownArtifact:
        return StoreDamage(where, "names an artifact that is gone", Fault.gone)
    except CorruptArtifact:
        return None  # reported with the artifact
    if kind != ref.kind:
        return StoreDamage(where, f"calls a {kind} a {ref.kind}", Fault.name)
    return None


def _whole(store: ArtifactStore) -> list[Manifest]:
    """The manifests that can be read."""
    manifests = []
    for digest in store.digests():
        try:
            manifests.append(store.manifest(digest))
        except (CorruptArtifact, UnknownArtifact):
            continue  # reported with the artifact
    return manifests


def _reindex(store: ArtifactStore) -> list[str]:
    """Key entries that are wrong or missing are written from the manifests, or removed."""
    bad = [key for key in store.indexed_keys() if _key_fault(store, key)]
    for key in bad:
        store.backend.remove(key_path(key))
    done = [f"removed the bad key entry {key[:12]}" for key in bad]
    known = set(store.indexed_keys())
    for manifest in sorted(_whole(store), key=lambda m: m.created_at):
        if manifest.key not in known:
            store.set_key(manifest)
            done.append(f"wrote the key entry of artifact {manifest.ref.short}")
    return done
