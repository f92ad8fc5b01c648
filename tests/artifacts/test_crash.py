"""Publishing dies before every single write, rename and sync: by a kill, and by a loss of power."""

import os
import sys
from pathlib import Path

import pytest

import artifacts.draft  # noqa: F401  (imported before the children are forked)
from artifacts import catalog
from artifacts.store import ArtifactStore
from tasks.tables import TABLES
from tests.artifacts.builders import key_of, make_draft, manifest_for

pytestmark = pytest.mark.slow

SURVIVED = 7
CRASHED = 9
WRITING = os.O_WRONLY | os.O_RDWR
AUDITED = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.copyfile"}


class Crash:
    """Ends this process before step `last`; a loss of power also halves every file that was not synced."""

    def __init__(self, root: Path, last: int, power_loss: bool):
        self.root, self.last, self.power_loss = root, last, power_loss
        self.steps, self.synced = 0, set()
        self.fsync = os.fsync
        os.fsync = self.sync
        sys.addaudithook(self.hook)

    def hook(self, event, args):
        opens_to_write = event == "open" and isinstance(args[2], int) and args[2] & WRITING
        if (opens_to_write or event in AUDITED) and not str(args[0]).startswith("/dev"):
            self.step()

    def sync(self, descriptor):
        self.step()
        self.fsync(descriptor)
        self.synced.add(os.fstat(descriptor).st_ino)

    def step(self):
        self.steps += 1
        if self.steps > self.last:
            self.last = sys.maxsize
            if self.power_loss:
                self.lose_unsynced()
            os._exit(CRASHED)

    def lose_unsynced(self):
        for folder, _, names in os.walk(self.root):
            for path in (os.path.join(folder, name) for name in names):
                status = os.stat(path)
                if status.st_ino not in self.synced:
                    os.truncate(path, status.st_size // 2)


def crash_at(last: int, root: Path, power_loss: bool) -> bool:
    """Publish and name an artifact in a child that dies before step `last`; False when it came to the end."""
    store, draft = ArtifactStore.open(str(root / "store")), make_draft(root / "draft")
    child = os.fork()
    if child == 0:
        Crash(root, last, power_loss)
        with store.lease(key_of("base")):
            store.set_ref("tiny/base", store.publish(draft, manifest_for("base"), TABLES))
        os._exit(SURVIVED)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (SURVIVED, CRASHED)
    return status == CRASHED


def check_and_retry(root: Path, power_loss: bool) -> bool:
    """Whether the artifact was there after the crash; it is in any case after the retry."""
    store = ArtifactStore.open(str(root / "store"))
    ref = store.lookup(key_of("base"))
    survived = ref is not None
    if survived:
        assert store.fetch(ref).is_dir()
    assert len(list(store.objects())) == survived
    assert all("not an intact artifact" in finding.what for finding in catalog.verify(store))
    draft = root / "draft" if (root / "draft").exists() and not power_loss else make_draft(root / "retry")
    with store.lease(key_of("base")):
        again = store.publish(draft, manifest_for("base"), TABLES)
        store.set_ref("tiny/base", again)
    assert again == (ref or again) == store.lookup(key_of("base"))
    names = {path.relative_to(store.fetch(again)).as_posix() for path in store.fetch(again).rglob("*.*")}
    assert names == {
        "manifest.json", "metrics.parquet", "model/model.safetensors", "rejected/00000.parquet",
        "rejected/00001.parquet",
    }  # fmt: skip
    assert catalog.verify(store) == []
    assert catalog.gc(store).objects == ()
    return survived


@pytest.mark.parametrize("power_loss", [False, True], ids=["kill", "power loss"])
def test_a_crash_at_any_step_leaves_nothing_half_visible(power_loss, tmp_path):
    outcomes = []
    for last in range(200):
        root = tmp_path / str(last)
        root.mkdir()
        crashed = crash_at(last, root, power_loss)
        outcomes.append(check_and_retry(root, power_loss))
        if not crashed:
            break
    assert not crashed
    assert len(outcomes) > 20
    assert outcomes == sorted(outcomes), "an artifact appears once and stays"
    assert not outcomes[0]
    assert outcomes[-1]
