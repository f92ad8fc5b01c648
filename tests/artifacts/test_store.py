import json
import os

import pytest

from artifacts.errors import CorruptArtifact, RefusedDraft, StoreError, UnknownArtifact
from artifacts.manifest import ManifestDraft, load_manifest
from artifacts.refs import Ref
from artifacts.store import ArtifactStore, store_url
from artifacts.tables import read_table
from tasks.kinds import Kind
from tasks.tables import TABLES
from tests.artifacts.builders import key_of, make_draft, manifest_for, publish, publish_recipe


def test_publish_lookup_fetch(any_store, tmp_path):
    assert any_store.lookup(key_of("base")) is None
    ref = publish(any_store, tmp_path, "base")
    assert any_store.lookup(key_of("base")) == ref
    again = ArtifactStore.open(any_store.url)
    folder = again.fetch(ref)
    assert read_table(folder / "metrics")["value"].to_pylist() == [0.5, 1.5, 2.5]
    assert (folder / "model" / "model.safetensors").read_bytes() == bytes(range(256)) * 8
    assert load_manifest(folder) == again.manifest(ref.digest)


def test_the_manifest_says_what_is_inside(any_store, tmp_path):
    ref = publish(any_store, tmp_path, "base", summary={"steps": 60, "reward": float("nan")})
    manifest = any_store.manifest(ref.digest[:6])
    assert manifest.ref == ref
    assert manifest.tables() == {"metrics": 3, "rejected": 2}
    assert [f.path for f in manifest.files] == [
        "metrics.parquet", "model/model.safetensors", "rejected/00000.parquet", "rejected/00001.parquet",
    ]  # fmt: skip
    assert manifest.summary == {"steps": 60, "reward": "nan"}
    assert [m.digest for m in any_store.objects()] == [ref.digest]


def test_a_key_is_published_once(any_store, tmp_path):
    first = any_store.publish(make_draft(tmp_path / "a"), manifest_for("base"), TABLES)
    second = any_store.publish(make_draft(tmp_path / "b", value=9.0), manifest_for("base"), TABLES)
    assert first == second
    assert len(any_store.digests()) == 1
    assert (tmp_path / "b").is_dir()


def test_publish_across_file_systems(store, tmp_path):
    other = "/dev/shm"
    if not os.path.isdir(other) or os.stat(other).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(dir=other) as folder:
        ref = store.publish(make_draft(Path(folder) / "draft"), manifest_for("base"), TABLES)
    assert store.fetch(ref).is_dir()
    assert not list((tmp_path / "store" / "tmp").iterdir())


def _empty(draft):
    draft.mkdir()


def _absent(draft):
    pass


def _unknown_table(draft):
    make_draft(draft)
    (draft / "metrics.parquet").rename(draft / "model" / "stuff.parquet")


def _wrong_schema(draft):
    make_draft(draft)
    (draft / "metrics.parquet").rename(draft / "samples.parquet")


def _truncated(draft):
    make_draft(draft)
    data = (draft / "metrics.parquet").read_bytes()
    (draft / "metrics.parquet").write_bytes(data[: len(data) // 2])


def _link(draft):
    make_draft(draft)
    (draft / "model" / "link").symlink_to("/etc/hostname")


def _linked_folder(draft):
    make_draft(draft)
    (draft / "more").symlink_to(draft / "model", target_is_directory=True)


def _manifest(draft):
    make_draft(draft)
    (draft / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_empty, "is empty"), (_absent, "is no folder"), (_unknown_table, "names no table schema"),
        (_wrong_schema, "unknown column name"), (_truncated, "not a whole Parquet file"),
        (_link, "link or special file"), (_linked_folder, "link or special file"),
        (_manifest, "the store's own"),
    ],
)  # fmt: skip
def test_bad_drafts_are_refused(spoil, message, any_store, tmp_path):
    spoil(tmp_path / "draft")
    with pytest.raises(RefusedDraft, match=message) as refusal:
        any_store.publish(tmp_path / "draft", manifest_for("base"), TABLES)
    assert "\n" not in str(refusal.value)
    assert any_store.lookup(key_of("base")) is None
    assert any_store.digests() == []


def test_a_config_without_json_form_is_refused_before_work():
    with pytest.raises(ValueError, match="cache key"):
        manifest_for("base", config={"x": float("inf")})
    with pytest.raises(ValueError, match="key"):
        ManifestDraft(kind=Kind.report, stage="s", stage_version=1, node="n", key="short")


def test_names(any_store, tmp_path):
    refs = publish_recipe(any_store, tmp_path)
    assert any_store.get_ref("tiny/dev1") == refs["dev1"]
    assert any_store.get_ref("tiny/dev9") is None
    first = any_store.refs()["tiny/dev1"]
    any_store.set_ref("tiny/dev1", refs["dev1"])
    assert any_store.refs()["tiny/dev1"] == first
    any_store.set_ref("tiny/dev1", refs["zero"])
    changed = any_store.refs()["tiny/dev1"]
    assert changed.ref == refs["zero"]
    assert changed.updated_at > first.updated_at
    any_store.drop_ref("tiny/dev1")
    assert any_store.refs() == {}


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "", "a/../b", ".hidden", "a b"])
def test_names_that_are_no_names(store, name):
    with pytest.raises(StoreError, match="is no ref name"):
        store.set_ref(name, Ref(kind=Kind.report, digest="a" * 64))


def test_a_name_needs_an_artifact_of_its_kind(store, tmp_path):
    with pytest.raises(UnknownArtifact, match="no artifact"):
        store.set_ref("tiny/x", Ref(kind=Kind.report, digest="a" * 64))
    ref = publish(store, tmp_path, "base")
    dataset = Ref(kind=Kind.dataset, digest=ref.digest)
    with pytest.raises(UnknownArtifact, match="is no dataset"):
        store.set_ref("tiny/x", dataset)
    with pytest.raises(UnknownArtifact, match="is a checkpoint, not a dataset"):
        store.fetch(dataset)


def test_resolve(any_store, tmp_path):
    refs = publish_recipe(any_store, tmp_path)
    dev1 = refs["dev1"]
    for text in ("tiny/dev1", "dev1", dev1.digest, dev1.short):
        assert any_store.resolve(text, "tiny") == dev1
    for text, message in [
        ("dev2", "did you mean tiny/dev1"), ("tiny/dev11", "did you mean tiny/dev1"), ("dev1", "tiny/dev1"),
        ("0" * 64, "no artifact 000000000000"), ("not/../a name", "no artifact is called"),
    ]:  # fmt: skip
        with pytest.raises(UnknownArtifact, match=message):
            any_store.resolve(text, None)


def test_a_quarantined_key_is_a_miss_and_can_be_built_again(any_store, tmp_path):
    ref = publish(any_store, tmp_path, "base")
    any_store.quarantine(ref.digest)
    assert any_store.lookup(key_of("base")) is None
    with pytest.raises(UnknownArtifact):
        any_store.fetch(ref)
    again = any_store.publish(make_draft(tmp_path / "again"), manifest_for("base"), TABLES)
    assert any_store.fetch(again).is_dir()


def test_fetch_refuses_damage_and_names_the_file(store, tmp_path):
    ref = publish(store, tmp_path, "base")
    path = tmp_path / "store" / "objects" / ref.digest[:2] / ref.digest[2:] / "metrics.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtifact, match=r"metrics\.parquet has other bytes"):
        store.fetch(ref)


def test_a_damaged_cache_of_a_remote_store_is_fetched_again(tmp_path):
    import artifacts.store as module

    remote = ArtifactStore.open(f"local://{tmp_path}/objects")
    ref = publish(remote, tmp_path, "base")
    model = remote.fetch(ref) / "model" / "model.safetensors"
    model.write_bytes(b"")
    module._verified.clear()
    assert (remote.fetch(ref) / "model" / "model.safetensors").stat().st_size == 2048


def test_a_damaged_remote_store_is_refused(tmp_path):
    remote = ArtifactStore.open(f"local://{tmp_path}/objects")
    ref = publish(remote, tmp_path, "base")
    next((tmp_path / "objects").rglob("model.safetensors")).write_bytes(b"x" * 2048)
    with pytest.raises(CorruptArtifact, match=r"model\.safetensors has other bytes"):
        remote.fetch(ref)


def test_a_manifest_of_a_newer_release_is_read(store, tmp_path):
    ref = publish(store, tmp_path, "base")
    folder = store.fetch(ref)
    newer = json.loads((folder / "manifest.json").read_text()) | {"invented_later": 1}
    (folder / "manifest.json").write_text(json.dumps(newer))
    assert load_manifest(folder).node == "base"


def test_the_store_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("R1_STORE", raising=False)
    assert store_url() == ".r1/store"
    monkeypatch.setenv("R1_STORE", str(tmp_path))
    assert ArtifactStore.open().url == f"file://{tmp_path}"
    with pytest.raises(StoreError, match="cannot open the store"):
        ArtifactStore.open("nonsense://x")
