import uuid

import pytest

from artifacts.store import ArtifactStore


@pytest.fixture(autouse=True)
def cache_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("R1_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    """A store on a disk."""
    return ArtifactStore.open(str(tmp_path / "store"))


@pytest.fixture(params=["file", "memory", "local"])
def any_store(request, tmp_path) -> ArtifactStore:
    """A disk, and two fsspec file systems."""
    urls = {
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://{uuid.uuid4().hex}",
        "local": f"local://{tmp_path}/objects",
    }
    return ArtifactStore.open(urls[request.param])
