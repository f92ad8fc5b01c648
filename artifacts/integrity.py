"""Comparing an artifact with its manifest, byte for byte."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from artifacts.backends import Backend
from artifacts.manifest import OWN_NAMES, FileEntry, Manifest


@dataclass(frozen=True)
class Damage:
    """One file that is not as published."""

    path: str
    """Relative to the artifact."""
    what: str


def damages(backend: Backend, manifest: Manifest, folder: str) -> list[Damage]:
    """Every missing, extra or changed file of the artifact in `folder`; hashes all of it."""
    found = backend.listing(folder)
    listed = [misfit(found, file) for file in manifest.files]
    whole = [file for file, damage in zip(manifest.files, listed, strict=True) if damage is None]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        hashed = pool.map(lambda file: _changed(backend, folder, file), whole)
    known = {file.path for file in manifest.files} | OWN_NAMES
    extra = [Damage(name, "is not in the manifest") for name in found if name not in known]
    odd = [Damage(name, "is not a plain file") for name in OWN_NAMES if found.get(name, 0) < 0]
    return [*(damage for damage in (*listed, *hashed) if damage), *extra, *odd]


def misfit(found: dict[str, int], file: FileEntry) -> Damage | None:
    """What a listing (path -> bytes) alone tells against a file."""
    size = found.get(file.path)
    if size is None:
        return Damage(file.path, "is missing")
    if size < 0:
        return Damage(file.path, "is not a plain file")
    if size != file.size:
        return Damage(file.path, f"has {size} bytes instead of {file.size}")
    return None


def _changed(backend: Backend, folder: str, file: FileEntry) -> Damage | None:
    if backend.sha256(f"{folder}/{file.path}") != file.sha256:
        return Damage(file.path, "has other bytes than were published")
    return None
