"""Full disks, damaged entries and object stores out of reach: one sentence each, and the rest goes on."""

import errno
import os
import subprocess
import time
import uuid

import pytest
from typer.testing import CliRunner

from artifacts import catalog
from artifacts.errors import StoreError, StoreFull, StoreUnavailable
from artifacts.local import STALE_SECONDS
from artifacts.store import ArtifactStore, key_path, object_path, ref_path
from flows.cli import app
from tasks.job.build import one_line
from tasks.tables import TABLES
from tests.artifacts.builders import key_of, make_draft, manifest_for, publish, publish_recipe
from tests.artifacts.test_catalog import flip


@pytest.fixture
def r1(store, monkeypatch):
    """Runs a command line on `store`; returns its result."""
    monkeypatch.setenv("R1_STORE", store.url)
    return lambda *words: CliRunner().invoke(app, list(words))


def is_one_line(text: str) -> bool:
    return text.isprintable() and len(text) < 600


# Full disks


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("size", [900_000, 4_000_000], ids=["fits without the rest", "larger than the disk"])
def test_a_full_store_on_another_disk_is_one_sentence_and_keeps_nothing(size, small_disk, tmp_path):
    store = ArtifactStore.open(str(small_disk / "store"))
    before = publish(store, tmp_path, "base")
    there = files_below(small_disk)
    (small_disk / "other").write_bytes(bytes(300_000))
    draft = make_draft(tmp_path / "draft")
    (draft / "model" / "large.bin").write_bytes(bytes(size))
    with pytest.raises(StoreFull, match=r"the disk of .*store is full \(.* bytes free, .* needed\)") as full:
        store.publish(draft, manifest_for("zero"), TABLES)
    assert is_one_line(str(full.value))
    left = set(files_below(small_disk)) - {*there, "other", f"store/{key_path(key_of('zero'))}"}
    assert left == set()
    (small_disk / "other").unlink()
    (draft / "model" / "large.bin").write_bytes(bytes(10_000))
    assert store.fetch(store.publish(draft, manifest_for("zero"), TABLES)).is_dir()
    assert store.fetch(before).is_dir()
    assert catalog.verify(store) == []


def test_a_disk_that_fills_while_an_artifact_is_copied_keeps_nothing_of_it(small_disk, tmp_path, monkeypatch):
    """What the free space says beforehand may be used up by others, or be limited by a quota."""
    monkeypatch.setattr("artifacts.files.require_room", lambda folder, size: None)
    store = ArtifactStore.open(str(small_disk / "store"))
    draft = make_draft(tmp_path / "draft")
    (draft / "model" / "large.bin").write_bytes(bytes(4_000_000))
    with pytest.raises(StoreFull, match="is full"):
        store.publish(draft, manifest_for("zero"), TABLES)
    assert [f for f in files_below(small_disk) if not f.startswith("store/keys/")] == []


def fill(path):
    """Take every byte that is free."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(descriptor, bytes(4_096)):
            continue
    except OSError:
        return
    finally:
        os.close(descriptor)


def test_no_byte_free_is_one_sentence_for_every_write(small_disk, tmp_path):
    store = ArtifactStore.open(str(small_disk / "store"))
    ref = publish(store, tmp_path, "base")
    fill(small_disk / "other")
    with pytest.raises(StoreFull, match="is full"):
        store.set_ref("tiny/base", ref)
    with pytest.raises(StoreFull, match="is full"):
        publish(store, tmp_path, "zero")
    assert store.lookup(key_of("base")) == ref


# Damaged entries


def empty(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(b"\x00\xff" * 40)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_json(path):
    path.write_text('{"name": 3}')


def another_digest(path):
    text = path.read_text()
    place = text.index('"digest":"') + 10
    path.write_text(text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :])


DAMAGES = [empty, garbage, half, other_json, another_digest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_key_entry_does_not_hide_a_whole_artifact(damage, store, tmp_path, r1):
    refs = publish_recipe(store, tmp_path)
    path = store.backend.root / key_path(key_of("zero"))
    damage(path)
    assert str(path) in r1("verify").stdout
    assert store.find(key_of("zero")) == refs["zero"]
    assert store.lookup(key_of("zero")) == refs["zero"], "found once, the entry is written anew"
    assert catalog.verify(store) == []
    assert store.find(key_of("nobody")) is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_name_blocks_nothing_and_is_repaired(damage, store, tmp_path, r1):
    refs = publish_recipe(store, tmp_path)
    path = store.backend.root / ref_path("tiny/dev1")
    damage(path)
    for command in (("ls",), ("ls", "--all"), ("gc",), ("gc", "--yes"), ("sql", "SELECT * FROM refs")):
        assert r1(*command).exit_code == 0, command
    kept = set(store.digests())
    if damage is not another_digest:  # then nothing is known of what the name stands for
        assert kept == {ref.digest for ref in refs.values()}
        found = r1("verify").stdout
        assert str(path) in found
        assert "verify --repair" in found
        assert r1("verify", "--repair").exit_code == 0
        assert not path.exists()
        assert list((store.backend.root / "quarantine").iterdir())
        store.set_ref("tiny/dev1", refs["dev1"])
        assert r1("verify").exit_code == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_sets_a_damaged_name_anew(damage, any_store, tmp_path):
    ref = publish(any_store, tmp_path, "base")
    any_store.set_ref("tiny/base", ref)
    for text in (b"", b"\xff", b"[]", b'{"name": "x"}'):
        any_store.backend.write(ref_path("tiny/base"), text)
        any_store.set_ref("tiny/base", ref)
        assert any_store.get_ref("tiny/base") == ref


def rebuild(store, tmp_path):
    """What the pipeline does: the keys of what was built from `base` follow from its new digest."""
    refs = {}

    def make(node, **parents):
        inputs = {name: refs[parent] for name, parent in parents.items()}
        key = key_of(node + "".join(ref.digest for ref in inputs.values()) if inputs else node)
        manifest = manifest_for(node, inputs).model_copy(update={"key": key})
        refs[node] = store.publish(make_draft(tmp_path / node), manifest, TABLES)

    make("base")
    make("problems")
    make("zero", checkpoint="base", problems="problems")
    make("dev1", checkpoint="base", dataset="zero")
    store.set_ref("tiny/dev1", refs["dev1"])
    return refs


def test_what_verify_asks_for_makes_it_clean(store, tmp_path, r1):
    """Repair, then the pipeline again: artifacts built from what was moved are not damage for ever."""
    old = publish_recipe(store, tmp_path)
    flip(store.backend.root / object_path(old["base"].digest) / "model" / "model.safetensors", 9)
    assert r1("verify").exit_code == 1
    repaired = r1("verify", "--repair")
    assert repaired.exit_code == 1, "dev1 has lost a parent until the pipeline has run"
    assert "run the pipeline again" in r1("verify").stdout
    new = rebuild(store, tmp_path / "again")
    assert r1("verify").exit_code == 0, r1("verify").stdout
    assert r1("gc", "--yes").exit_code == 0
    assert set(store.digests()) == {ref.digest for ref in new.values()}


def test_an_unnamed_artifact_with_a_lost_parent_is_removed_by_what_verify_says(store, tmp_path, r1):
    lost = publish(store, tmp_path, "lost")
    publish(store, tmp_path, "experiment", {"checkpoint": lost})
    store.quarantine(lost.digest)
    assert "`r1 gc --yes` removes it" in r1("verify").stdout
    r1("gc", "--yes")
    assert r1("verify").exit_code == 0


@pytest.mark.parametrize(
    "place",
    ["objects/notes.txt", "objects/ab", "objects/zz/deep/file", "objects/ab/cd", "keys/x", "keys/ab/x"],
)
def test_what_belongs_to_no_artifact_is_named_and_moved_aside(place, any_store, tmp_path):
    ref = publish(any_store, tmp_path, "base")
    any_store.set_ref("tiny/base", ref)
    any_store.backend.write(place, b"x")
    findings = catalog.verify(any_store)
    assert len(findings) == 1, findings
    assert findings[0].where == any_store.backend.address(
        "/".join(place.split("/")[: 3 if "ab" in place else 2])
    )
    assert catalog.gc(any_store).objects == ()
    catalog.repair(any_store, findings)
    assert catalog.verify(any_store) == []
    assert any_store.fetch(ref).is_dir()


@pytest.mark.parametrize("loss", ["cut", "gone", "longer"])
def test_an_artifact_with_a_lost_or_cut_file_is_not_reused(loss, any_store, tmp_path):
    publish_recipe(any_store, tmp_path)
    path = f"{object_path(any_store.lookup(key_of('base')).digest)}/model/model.safetensors"
    if loss == "gone":
        any_store.backend.remove(path)
    else:
        any_store.backend.write(path, bytes(5 if loss == "cut" else 50_000))
    assert any_store.find(key_of("base")) is None
    again = publish(any_store, tmp_path / "again", "base")
    assert any_store.lookup(key_of("base")) == again
    assert any_store.fetch(again).is_dir()


def test_verify_takes_time_in_proportion_to_the_store(store, tmp_path, monkeypatch):
    """The set of digests was built once for each artifact."""
    made = []
    real = type(store).digests
    monkeypatch.setattr(type(store), "digests", lambda self: Counted(real(self), made))
    for n in range(12):
        publish(store, tmp_path, f"node{n}")
    catalog.verify(store)
    assert len(made) < 12


class Counted(list):
    """A list that notes how often it is gone through."""

    def __init__(self, items, made):
        super().__init__(items)
        self.made = made

    def __iter__(self):
        self.made.append(1)
        return super().__iter__()


# Leftovers of remote stores


def test_gc_cleans_the_cache_and_the_leases_of_an_object_store(tmp_path):
    url = f"local://{tmp_path}/objects"
    remote = ArtifactStore.open(url)
    refs = publish_recipe(remote, tmp_path)
    loose = publish(remote, tmp_path, "loose")
    for ref in (loose, refs["base"]):
        remote.fetch(ref)
    with remote.lease(key_of("old")):
        pass
    day_ago = time.time() - 24 * STALE_SECONDS
    for lease in (tmp_path / "objects" / "leases" / key_of("old")).iterdir():
        os.utime(lease, (day_ago, day_ago))
    with remote.lease(key_of("fresh")):
        pass
    garbage = catalog.gc(remote, dry_run=False)
    assert garbage.cached == (loose.digest,)
    assert remote.cache().digests() == [refs["base"].digest]
    assert remote.backend.children("leases") == [key_of("fresh")]
    assert remote.fetch(refs["base"]).is_dir()


# Object stores out of reach


@pytest.fixture
def s3(monkeypatch):
    """An S3 server with the bucket `there`, and credentials for it; its address."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    _forget_connections()
    import boto3

    boto3.client("s3").create_bucket(Bucket="there")
    yield url
    server.stop()
    _forget_connections()


def _forget_connections():
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_store_on_s3_publishes_fetches_leases_verifies_and_repairs(s3, tmp_path):
    store = ArtifactStore.open(f"s3://there/{uuid.uuid4().hex}")
    store.backend.check()
    assert store.refs() == {}
    with store.lease(key_of("base")) as lease:
        assert store.backend.held_leases() == [key_of("base")]
        base = store.publish(make_draft(tmp_path / "d"), manifest_for("base"), TABLES, lease)
    store.set_ref("tiny/base", base)
    assert (store.fetch(base) / "metrics.parquet").is_file()
    assert catalog.verify(store) == []
    store.backend.write("objects/notes.txt", b"x")
    store.backend.write(ref_path("tiny/base"), b"{")
    store.backend.write(key_path(key_of("base")), b"{")
    findings = catalog.verify(store)
    assert len(findings) == 3
    catalog.repair(store, findings)
    assert catalog.verify(store) == []
    assert store.lookup(key_of("base")) == base


def test_a_bucket_that_is_not_there_is_said_and_not_made(s3, monkeypatch, tmp_path):
    import boto3

    store = ArtifactStore.open("s3://mistyped/r1")
    for attempt in (
        store.backend.check,
        lambda: store.lookup(key_of("base")),
        lambda: store.find(key_of("base")),
        lambda: store.refs(),
        lambda: list(store.objects()),
        lambda: publish(store, tmp_path / uuid.uuid4().hex, "base"),
        lambda: store.lease(key_of("base")).__enter__(),
        lambda: catalog.verify(store),
        lambda: catalog.gc(store),
    ):
        with pytest.raises(StoreUnavailable, match="there is no such bucket: create it, or correct R1_STORE"):
            attempt()
    assert [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]] == ["there"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "check the network and the address"),
        ({"AWS_ENDPOINT_URL": "http://nowhere.invalid"}, "check the network and the address"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "set AWS_ACCESS_KEY_ID and AWS_SECRET"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "set AWS_ACCESS_KEY_ID and AWS_SECRET"),
    ],
)
def test_every_command_says_in_one_line_why_s3_is_not_available(s3, settings, words, monkeypatch):
    for name, value in settings.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setenv("R1_STORE", "s3://there/r1")
    for command in (("ls",), ("plan",), ("verify",), ("run",)):
        _forget_connections()
        done = CliRunner().invoke(app, list(command))
        assert (done.exit_code, done.stdout) == (2, ""), command
        assert words in done.stderr
        assert is_one_line(done.stderr.strip()), done.stderr
        assert "the store s3://there/r1 is not available" in done.stderr


def test_a_driver_that_is_not_installed_is_named_with_the_extra(monkeypatch):
    def absent(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.get_filesystem_class", absent)
    monkeypatch.setattr("fsspec.core.filesystem", absent)
    with pytest.raises(StoreError, match=r"cannot open the store s3://b/r1: .*Install s3fs.*extra `s3`"):
        ArtifactStore.open("s3://b/r1")


def test_a_folder_that_is_closed_or_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnavailable, match="is a file: change that, or R1_STORE"):
        ArtifactStore.open(str(tmp_path / "file" / "store")).backend.check()
    ArtifactStore.open(str(tmp_path / "new" / "store")).backend.check()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/work/state/x"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_job_on_a_full_disk_says_what_to_do(error):
    line = one_line(error)
    assert line.startswith("the disk is full (")
    assert line.endswith("free some space, then run again; it goes on from its checkpoint")
