import multiprocessing
import os
import signal
import threading
import time

import pytest

from artifacts import leases
from artifacts.backends import ObjectBackend
from artifacts.errors import LeaseLost
from artifacts.store import ArtifactStore
from artifacts.trust import Trust
from tasks.job import LOST
from tasks.job import build as job_build
from tasks.job.spec import BuildSpec, JobSpec
from tasks.supervise.watch import Watch
from tasks.tables import TABLES
from tests.artifacts.builders import key_of, make_draft, manifest_for

KEY = key_of("base")
fork = multiprocessing.get_context("fork")


def build(url, folder, worker, built):
    store = ArtifactStore.open(url)
    with store.lease(KEY):
        ref = store.lookup(KEY)
        if ref is None:
            draft = make_draft(folder / f"draft-{worker}")
            time.sleep(0.3)
            ref = store.publish(draft, manifest_for("base"), TABLES)
            built.append(worker)
    assert store.fetch(ref).is_dir()


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_builders_of_one_key_build_once(scheme, tmp_path):
    url = f"{scheme}://{tmp_path}/store"
    with fork.Manager() as manager:
        built = manager.list()
        workers = [fork.Process(target=build, args=(url, tmp_path, n, built)) for n in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert len(built) == 1
    store = ArtifactStore.open(url)
    assert len(store.digests()) == 1
    assert store.backend.held_leases() == []


def test_a_file_is_created_once_whoever_looked_before(tmp_path, monkeypatch):
    """Two processes that look at the same moment both see nothing."""
    backend = ObjectBackend(f"local://{tmp_path}/store")
    assert backend.create("leases/k/00000001", b"first")
    monkeypatch.setattr(type(backend.fs.fs), "exists", lambda *_, **__: False)
    assert not backend.create("leases/k/00000001", b"second")
    assert backend.read("leases/k/00000001") == b"first"


def hold_for_ever(store, read_end, write_end, with_grandchild):
    """In a child: hold the lease, say so, sleep."""
    os.close(read_end)
    with store.lease(KEY):
        if with_grandchild and os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        os.write(write_end, b"held")
        time.sleep(60)
    os._exit(1)


@pytest.mark.parametrize("with_grandchild", [False, True])
def test_a_killed_holder_frees_its_lease(with_grandchild, store):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        hold_for_ever(store, read_end, write_end, with_grandchild)
    assert os.read(read_end, 4) == b"held"
    assert store.backend.held_leases() == [KEY]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = time.monotonic()
    with store.lease(KEY):
        assert time.monotonic() - before < 1
    assert store.backend.held_leases() == []
    assert not list((store.backend.root / "leases").iterdir())


def test_a_waiting_builder_says_for_whom_it_waits(any_store):
    messages, order = [], []

    def wait():
        with any_store.lease(KEY, messages.append):
            order.append("second")

    with any_store.lease(KEY):
        thread = threading.Thread(target=wait)
        thread.start()
        while not messages:
            time.sleep(0.01)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert len(messages) == 1
    assert f"process {os.getpid()}" in messages[0]
    assert KEY[:12] in messages[0]


def test_other_keys_do_not_wait(any_store):
    with any_store.lease(KEY), any_store.lease(key_of("other")):
        assert any_store.backend.held_leases() == sorted([KEY, key_of("other")])


def test_an_exception_frees_the_lease(any_store):
    with pytest.raises(RuntimeError, match="boom"), any_store.lease(KEY):
        raise RuntimeError("boom")
    with any_store.lease(KEY, lambda message: pytest.fail(message)):
        pass


@pytest.mark.slow
def test_a_lease_object_expires_when_its_holder_is_killed(tmp_path):
    store = ObjectBackend(f"local://{tmp_path}/objects")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        with leases.object_lease(store, "leases/k", ttl=0.6, beat=0.1):
            os.write(write_end, b"held")
            time.sleep(60)
    assert os.read(read_end, 4) == b"held"
    waited = []
    # A living holder keeps its lease for longer than the lifetime.
    thread = threading.Thread(target=_take, args=(store, waited))
    thread.start()
    time.sleep(1.0)
    assert not waited
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    thread.join(10)
    assert waited == ["taken"]


def _take(store, waited, ttl=0.6):
    with leases.object_lease(store, "leases/k", ttl=ttl, beat=0.1):
        waited.append("taken")


class Flaky(ObjectBackend):
    """An object store whose writes fail for one holder while `broken`; everybody else is served."""

    broken = False
    failed = 0

    def write(self, path, data):
        if self.broken:
            self.failed += 1
            raise ConnectionResetError("503")
        super().write(path, data)


@pytest.mark.slow
def test_a_failed_heartbeat_does_not_lose_the_lease(tmp_path):
    url = f"local://{tmp_path}/objects"
    store, taken = Flaky(url), []
    with leases.object_lease(store, "leases/k", ttl=3.0, beat=0.1) as lease:
        waiter = threading.Thread(target=_take, args=(ObjectBackend(url), taken, 3.0))
        waiter.start()
        store.broken = True
        while store.failed < 3:
            time.sleep(0.02)
        store.broken = False
        time.sleep(4.0)  # longer than the lease lives without a heartbeat
        lease.check()
        assert (lease.lost, taken) == ("", [])
    waiter.join(10)
    assert taken == ["taken"]


def test_who_cannot_renew_a_lease_until_it_expires_is_told_and_publishes_nothing(tmp_path):
    url = f"local://{tmp_path}/objects"
    mine = ArtifactStore(Flaky(url), Trust())
    draft = make_draft(tmp_path / "draft")
    with leases.object_lease(mine.backend, f"leases/{KEY}", ttl=0.5, beat=0.05) as lease:
        mine.backend.broken = True
        with leases.object_lease(ObjectBackend(url), f"leases/{KEY}", ttl=0.5, beat=0.05) as second:
            deadline = time.monotonic() + 10
            while not lease.lost:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            mine.backend.broken = False
            with pytest.raises(LeaseLost, match=r"took over|could not be renewed"):
                mine.publish(draft, manifest_for("base"), TABLES, lease)
            assert mine.digests() == []
            assert mine.lookup(KEY) is None
            assert not second.lost
    assert ArtifactStore(ObjectBackend(url), Trust()).digests() == []


def test_a_holder_that_was_suspended_notices_that_another_took_over(tmp_path):
    """Its own clock may have stood still, so only the store can tell."""
    store = ObjectBackend(f"local://{tmp_path}/objects")
    with leases.object_lease(store, "leases/k", ttl=60, beat=60) as lease:
        assert store.create("leases/k/00000002", b"{}")
        with pytest.raises(LeaseLost, match="another builder took over k"):
            lease.check()
    assert store.children("leases/k") == ["00000001", "00000002"], "who lost a lease removes nothing of it"


def test_a_job_that_lost_its_lease_ends_so_that_it_is_started_again(tmp_path, monkeypatch):
    """Started again it waits for the other builder, whose artifact it takes."""
    monkeypatch.setenv("R1_STORE", f"local://{tmp_path}/objects")

    def take_over(config, job):
        ObjectBackend(f"local://{tmp_path}/objects").create(f"leases/{KEY}/00000002", b"{}")
        (job.draft / "report.html").write_text("x")

    one = BuildSpec(node="report", stage="report", config={}, inputs={}, key=KEY, ref_name="tiny/report")
    spec = JobSpec(work_root=tmp_path / "work", preset="tiny", builds=(one,))
    monkeypatch.setattr(job_build, "load", lambda entry: take_over)

    def work():
        with Watch(os.getppid()) as watch:
            os._exit(job_build.run_builds(spec, tmp_path, watch))

    child = fork.Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode == LOST
    assert ArtifactStore.open().digests() == []
    assert not (tmp_path / "exit.json").exists()
