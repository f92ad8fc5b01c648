"""Looking after a store: finding damage, moving it aside, and removing what no name reaches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from artifacts.checks import printable
from artifacts.errors import CorruptArtifact, StoreBusy, StoreError, StoreUnavailable, UnknownArtifact
from artifacts.integrity import damages
from artifacts.local import LEASES, TEMPORARY, LocalBackend
from artifacts.manifest import MANIFEST_NAME, Manifest
from artifacts.store import ArtifactStore, Report, is_ref_name, key_path, object_path, skip_silently


class Fault(StrEnum):
    """What kind of damage it is; whoever shows it to a user knows what to do about it."""

    damaged = "damaged"
    """An artifact has other bytes or files than were published; `repair` moves it aside."""
    index = "index"  # type: ignore[assignment]  # hides `str.index`, which no fault needs
    """A key entry is wrong or missing; `repair` writes it anew."""
    name = "name"
    """A ref's file is not a ref, or calls an artifact what it is not; `repair` moves it aside."""
    gone = "gone"
    """A name, or an artifact that a name reaches, refers to an artifact that the store no longer has."""
    unused = "unused"
    """As `gone`, of an artifact that no name reaches: `gc` removes it."""
    stray = "stray"
    """Something that belongs to no artifact; `repair` moves it aside."""
    folder = "folder"
    """A link or a file in the place of one of the store's own folders."""


@dataclass(frozen=True)
class StoreDamage:
    """Something in the store that is not as it should be."""

    where: str
    """The file, as other tools name it."""
    what: str
    fault: Fault
    digest: str | None = None
    """The damaged artifact, if it is one."""
    path: str = ""
    """The file, relative to the store."""


def verify(store: ArtifactStore) -> list[StoreDamage]:
    """Every changed byte, missing or extra file, bad key entry and name or parent of nothing.

    Reads the whole store. Manifests, files, key entries and names are covered; not the times of names.
    """
    return [
        *_layout_damages(store),
        *_object_damages(store),
        *_key_damages(store),
        *_ref_damages(store),
    ]


def repair(store: ArtifactStore, findings: Iterable[StoreDamage]) -> list[str]:
    """Move what is damaged or stray to `quarantine/` and rewrite the key index; returns what was done.

    Names and children of what was moved stay: building again sets the names, and `gc` removes the children.
    """
    findings = list(findings)
    digests = sorted({finding.digest for finding in findings if finding.digest})
    for digest in digests:
        store.quarantine(digest)
    done = [f"moved artifact {digest[:12]} to quarantine" for digest in digests]
    for path in dict.fromkeys(f.path for f in findings if f.fault in (Fault.stray, Fault.name)):
        store.set_aside(path)
        done.append(f"moved {printable(path)} to quarantine")
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
    cached: tuple[str, ...] = ()
    """Artifacts in this machine's cache of a remote store (digests) that no name there reaches."""

    @property
    def size(self) -> int:
        """Bytes of the objects."""
        return sum(manifest.size for manifest in self.objects)


def reachable(
    store: ArtifactStore, forget: Collection[str] = (), report: Report = skip_silently
) -> tuple[set[str], bool]:
    """The digests of everything a name (not one of `forget`) reaches, directly or through parents.

    And whether that is all: a damaged manifest that is reached no longer says what it was built from, and a
    damaged name no longer what it stands for.
    """
    seen: set[str] = set()
    named = store.refs(report)
    complete = not [name for name in store.ref_names() if name not in {*named, *forget} and is_ref_name(name)]
    waiting = [entry.ref for name, entry in named.items() if name not in forget]
    while waiting:
        ref = waiting.pop()
        if ref.digest in seen:
            continue
        seen.add(ref.digest)
        try:
            waiting.extend(store.manifest(ref.digest).parents.values())
        except UnknownArtifact:
            continue  # it is gone: `verify` reports it
        except CorruptArtifact:
            complete = False
    return seen, complete


def gc(
    store: ArtifactStore,
    dry_run: bool = True,
    forget: Collection[str] = (),
    report: Report = skip_silently,
) -> Garbage:
    """What no name reaches; deleted, and the names in `forget` too, unless `dry_run`.

    Damaged entries are reported and left to `repair`. While one of them is reached by a name, no artifact is
    garbage: what that one was built from is not known.

    Raises:
        StoreBusy: a build is running, whose artifact may have no name yet.
    """
    if not dry_run and (held := _or_nothing(store.backend.held_leases, report)):
        raise StoreBusy(f"a build of {held[0][:12]} is running in {store.url}")
    (kept, complete), there = reachable(store, forget, report), list(store.objects(report))
    present = {manifest.digest for manifest in there}
    cache = store.cache()
    garbage = Garbage(
        tuple(manifest for manifest in there if complete and manifest.digest not in kept),
        tuple(_or_nothing(store.backend.stale, report)),
        tuple(
            key
            for key in store.indexed_keys()
            if (ref := store.key_target(key)) is None or ref.digest not in present
        ),
        tuple(digest for digest in cache.digests() if complete and digest not in kept) if cache else (),
    )
    if not dry_run:
        for name in forget:
            store.drop_ref(name)
        _delete(store, garbage, report)
    return garbage


def _or_nothing(find: Callable[[], list[str]], report: Report) -> list[str]:
    try:
        return find()
    except CorruptArtifact as error:  # a link in the place of a folder: nothing of ours lies behind it
        report(error)
        return []


def _delete(store: ArtifactStore, garbage: Garbage, report: Report) -> None:
    paths = [object_path(manifest.digest) for manifest in garbage.objects]
    entries = [
        key_path(manifest.key)
        for manifest in garbage.objects
        if (target := store.key_target(manifest.key)) and target.digest == manifest.digest
    ]
    doomed = [(store.backend, path) for path in (*entries, *paths, *garbage.stale)]
    doomed += [(store.backend, key_path(key)) for key in garbage.keys]
    if cache := store.cache():
        doomed += [(cache.backend, object_path(digest)) for digest in garbage.cached]
    for backend, path in doomed:
        try:
            backend.remove(path)
        except (StoreError, OSError, RecursionError) as error:
            report(StoreError(f"{backend.address(path)} was not removed: {error}"))


def _damage(
    store: ArtifactStore, path: str, what: str, fault: Fault, digest: str | None = None
) -> StoreDamage:
    return StoreDamage(printable(store.backend.address(path)), printable(what), fault, digest, path)


def _layout_damages(store: ArtifactStore) -> list[StoreDamage]:
    """Links and files in the place of the store's own folders."""
    found = []
    for name in ("objects", "keys", "refs", LEASES, TEMPORARY, "quarantine"):
        try:
            store.backend.children(name)
        except CorruptArtifact:
            found.append(_damage(store, name, "is not a folder of the store", Fault.folder))
    return found


def _object_damages(store: ArtifactStore) -> list[StoreDamage]:
    found = [_damage(store, path, _stray(path), Fault.stray) for path in store.strays()]
    whole: list[Manifest] = []
    digests = store.digests()
    for digest in digests:
        manifest, damaged = _artifact_damages(store, digest)
        whole += [manifest] if manifest else []
        found += damaged
    return found + _lost_parents(store, whole, set(digests))


def _stray(path: str) -> str:
    return "is not an artifact" if path.startswith("objects/") else "is not a key entry"


def _artifact_damages(store: ArtifactStore, digest: str) -> tuple[Manifest | None, list[StoreDamage]]:
    """The manifest, where it can be read, and what is wrong with the artifact."""
    folder = object_path(digest)
    where = f"{folder}/{MANIFEST_NAME}"
    try:
        manifest = store.manifest(digest)
        changed = damages(store.backend, manifest, folder)
    except UnknownArtifact:
        # In an object store this is an upload under way, or abandoned: then `gc` removes it.
        local = isinstance(store.backend, LocalBackend)
        return None, [_damage(store, where, "is missing", Fault.damaged, digest)] if local else []
    except CorruptArtifact as error:
        what = str(error).removeprefix(store.backend.address(where)).strip()
        return None, [_damage(store, where, what, Fault.damaged, digest)]
    return manifest, [_damage(store, f"{folder}/{d.path}", d.what, Fault.damaged, digest) for d in changed]


def _lost_parents(store: ArtifactStore, manifests: list[Manifest], there: set[str]) -> list[StoreDamage]:
    """Artifacts with a parent that is gone, unless their node was built again since and nothing needs them.

    Such a one is only garbage: building again gave the node another digest and its names to that one.
    """
    kept, _ = reachable(store)
    rebuilt = {(m.preset, m.node, m.stage) for m in manifests if m.digest in kept}
    found = []
    for manifest in manifests:
        used = manifest.digest in kept
        if not used and (manifest.preset, manifest.node, manifest.stage) in rebuilt:
            continue
        found += [
            _damage(
                store,
                f"{object_path(manifest.digest)}/{MANIFEST_NAME}",
                f"has a parent {name} ({parent.short}) that is gone",
                Fault.gone if used else Fault.unused,
            )
            for name, parent in manifest.parents.items()
            if parent.digest not in there
        ]
    return found


def _key_damages(store: ArtifactStore) -> list[StoreDamage]:
    bad = [
        _damage(store, key_path(key), fault, Fault.index)
        for key in store.indexed_keys()
        if (fault := _key_fault(store, key))
    ]
    missing = sorted({manifest.key for manifest in store.objects()} - set(store.indexed_keys()))
    what = "is missing: the artifact of this key is not found"
    return bad + [_damage(store, key_path(key), what, Fault.index) for key in missing]


def _key_fault(store: ArtifactStore, key: str) -> str | None:
    target = store.key_target(key)
    if target is None:
        return "is not an entry of its key"
    try:
        manifest = store.manifest(target.digest)
    except (UnknownArtifact, CorruptArtifact):
        manifest = None
    if manifest is None or (manifest.key, manifest.ref) != (key, target):
        return f"names artifact {target.short}, which is not an intact artifact of this key"
    return None


def _ref_damages(store: ArtifactStore) -> list[StoreDamage]:
    found = [_ref_damage(store, name) for name in store.ref_names()]
    return [damage for damage in found if damage is not None]


def _ref_damage(store: ArtifactStore, name: str) -> StoreDamage | None:
    path = f"refs/{name}.json"
    try:
        ref = store.get_ref(name)
    except StoreUnavailable:
        raise
    except StoreError:
        return _damage(store, path, "is not a ref", Fault.name)
    if ref is None:
        return None  # forgotten meanwhile
    try:
        kind = store.manifest(ref.digest).kind
    except UnknownArtifact:
        return _damage(store, path, "names an artifact that is gone", Fault.gone)
    except CorruptArtifact:
        return None  # reported with the artifact
    if kind != ref.kind:
        return _damage(store, path, f"calls a {kind} a {ref.kind}", Fault.name)
    return None


def _reindex(store: ArtifactStore) -> list[str]:
    """Key entries that are wrong or missing are written from the manifests, or removed."""
    bad = [key for key in store.indexed_keys() if _key_fault(store, key)]
    for key in bad:
        store.backend.remove(key_path(key))
    done = [f"removed the bad key entry {key[:12]}" for key in bad]
    known = set(store.indexed_keys())
    for manifest in sorted(store.objects(), key=lambda m: m.created_at):
        if manifest.key not in known:
            store.set_key(manifest)
            done.append(f"wrote the key entry of artifact {manifest.ref.short}")
    return done
