"""Comparing an artifact with its manifest, byte for byte."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from artifacts.backends import Backend
from artifacts.manifest import MANIFEST_NAME, FileEntry, Manifest


@dataclass(frozen=True)
class Damage:
    """One file that is not as published."""

    path: str
    """Relative to the artifact."""
    what: str


def damages(backend: Backend, manifest: Manifest, folder: str) -> list[Damage]:
    """Every missing, extra or changed file of the artifact in `folder`; hashes all of it."""
    found = backend.listing(folder)
    known = {file.path for file in manifest.files} | {MANIFEST_NAME}
    extra = [Damage(name, "is not in the manifest") for name in found if name not in known]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        checked = list(pool.map(lambda file: _damage(backend, folder, found, file), manifest.files))
    return [*(damage for damage in checked if damage), *extra]


def _damage(backend: Backend, folder: str, found: dict[str, int], file: FileEntry) -> Damage | None:
    size = found.get(file.path)
    if size is None:
        return Damage(file.path, "is missing")
    if size < 0:
        return Damage(file.path, "is not a plain file")
    if size != file.size:
        return Damage(file.path, f"has {size} bytes instead of {file.size}")
    if backend.sha256(f"{folder}/{file.path}") != file.sha256:
        return Damage(file.path, "has other bytes than were published")
    return None
