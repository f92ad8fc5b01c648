"""Finds the artifacts of a run in the store, for `r1 compare`.

A run is called as a user knows it:

    tiny, tiny@lower-lr       a preset or an experiment: its newest report; without one, what has its name
    tiny/report, 3f9a12c4     an artifact by name or digest: it and everything that it was made from
    FOLDER                    the folder of such an artifact
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import CorruptArtifact, UnknownArtifact
from artifacts.manifest import MANIFEST_NAME, Manifest
from artifacts.refs import Ref
from artifacts.store import ArtifactStore, object_path
from tasks.kinds import Kind
from tasks.presets import preset_name
from tasks.recipe import role

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.report.comparison import ComparedRun, Comparison

REPORT, EVALUATION = "report", "evaluation."


def compare_runs(store: ArtifactStore, one: str, other: str) -> Comparison:
    """Return what differs between two runs, called as in this module's docstring.

    Raises:
        StoreError: there is no such run, or one of its artifacts is gone or damaged.
    """
    from tasks.report import comparison

    def read(manifest: Manifest, table: str) -> pa.Table | None:
        if table == "problems":
            parent = manifest.parents.get(table)
            manifest = store.manifest(parent.digest) if parent else manifest
        return _read(store, manifest, table)

    return comparison.compare(find_run(store, one), find_run(store, other), read)


def find_run(store: ArtifactStore, text: str) -> ComparedRun:
    """Return the artifacts of the run that a user calls `text`.

    Raises:
        StoreError: there is none.
    """
    from tasks.report.comparison import ComparedRun

    artifacts: dict[str, Manifest] = {}
    for manifest in _manifests(store, text):
        if manifest.kind != Kind.report:
            artifacts.setdefault(_node(manifest), manifest)
    return ComparedRun(text, artifacts)


def runs(store: ArtifactStore) -> list[str]:
    """The presets and experiments that artifacts are named after."""
    return sorted({name.partition("/")[0] for name in store.ref_names() if "/" in name})


def _manifests(store: ArtifactStore, text: str) -> Iterator[Manifest]:
    folder = Path(text)
    if (folder / MANIFEST_NAME).is_file():
        manifest = Manifest.parse((folder / MANIFEST_NAME).read_bytes(), text)
        return _with_ancestors(store, manifest.parents.values(), manifest)
    scope = preset_name(text) if text.endswith((".yaml", ".yml")) else text
    # `tiny/r1-zero@quick` is a stage that ran by itself, no part of the run.
    named = [n for n in store.ref_names() if n.partition("/")[0] == scope and "@" not in n.partition("/")[2]]
    if f"{scope}/{REPORT}" in named:
        return _with_ancestors(store, [store.resolve(f"{scope}/{REPORT}")])
    if named:  # a run that ended early, or goes on
        return _with_ancestors(store, [store.resolve(name) for name in named])
    try:
        return _with_ancestors(store, [store.resolve(text)])
    except UnknownArtifact as error:
        known = ", ".join(runs(store)) or "none"
        raise UnknownArtifact(
            f"no run and no artifact is called {text!r}: the store has runs {known}"
        ) from error


def _with_ancestors(store: ArtifactStore, refs: Iterable[Ref], *manifests: Manifest) -> Iterator[Manifest]:
    """The artifacts themselves and what they were made from, each once, the nearest first."""
    yield from manifests
    waiting, seen = deque(refs), set[str]()
    while waiting:
        ref = waiting.popleft()
        if ref.digest not in seen:
            seen.add(ref.digest)
            manifest = store.manifest(ref.digest)
            waiting += manifest.parents.values()
            yield manifest


def _node(manifest: Manifest) -> str:
    """What the artifact is called in a comparison, whatever its student's name: `evaluation.student-base`."""
    node = role(manifest.node.removeprefix(EVALUATION))
    return f"{EVALUATION}{node}" if manifest.kind == Kind.evaluation else node


def _read(store: ArtifactStore, manifest: Manifest, table: str) -> pa.Table | None:
    """A table of an artifact, and no other file of it: a checkpoint's weights stay where they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for file in manifest.files:
        if file.table == table:
            path = f"{object_path(manifest.digest)}/{file.path}"
            try:
                with store.backend.open(path) as opened:
                    found.append(pq.read_table(opened))
            except (OSError, pa.ArrowException) as error:
                reason = str(error).partition("\n")[0]
                raise CorruptArtifact(f"{store.backend.address(path)} cannot be read ({reason})") from error
    return pa.concat_tables(found) if found else None
