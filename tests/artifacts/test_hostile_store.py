"""A store that others can write into: what they plant is named and skipped, and reaches nothing outside."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import uuid

import pytest
from typer.testing import CliRunner

from artifacts import catalog, query
from artifacts.checks import MAX_DOCUMENT, printable, redacted
from artifacts.errors import CorruptArtifact, StoreError, UnknownArtifact, UntrustedArtifact
from artifacts.keys import canonical_json
from artifacts.lineage import MAX_DRAWN, lineage
from artifacts.manifest import Manifest
from artifacts.refs import Ref
from artifacts.store import ArtifactStore, key_path, object_path, ref_path
from artifacts.trust import Trust
from flows.cli import app
from tasks.kinds import Kind
from tasks.tables import TABLES
from tests.artifacts.builders import key_of, make_draft, manifest_for, publish, publish_recipe
from tests.test_export import publish_model

PLAIN = {"path": "a.txt", "size": 5, "sha256": hashlib.sha256(b"hello").hexdigest()}


@pytest.fixture
def r1(store, monkeypatch):
    """Runs a command line on `store`; returns its result."""
    monkeypatch.setenv("R1_STORE", store.url)
    return lambda *words: CliRunner().invoke(app, list(words))


def fields(node="planted", files=(PLAIN,), **more):
    return {
        "kind": "checkpoint", "stage": "sft", "stage_version": 1, "node": node, "preset": "tiny",
        "key": key_of(node), "created_at": "2026-01-02T03:04:05Z", "files": list(files), **more,
    }  # fmt: skip


def plant(store, document: bytes, key: str | None = None, data: bytes = b"hello") -> Ref:
    """What anybody who may write into the store can do: any manifest under its digest, with a key."""
    digest = hashlib.sha256(document).hexdigest()
    store.backend.write(f"{object_path(digest)}/manifest.json", document)
    store.backend.write(f"{object_path(digest)}/a.txt", data)
    ref = Ref(kind="checkpoint", digest=digest)
    if key:
        entry = {"key": key, "ref": ref.model_dump()}
        store.backend.write(key_path(key), canonical_json(entry))
    return ref


def name(store, ref_name: str, ref: Ref, file: str | None = None) -> None:
    document = {"name": ref_name, "ref": ref.model_dump(), "updated_at": "2026-01-02T03:04:05Z"}
    store.backend.write(file or f"refs/{ref_name}.json", json.dumps(document).encode())


# Manifests


def deep(levels: int) -> bytes:
    document = json.dumps(fields(config="HERE"))
    return document.replace('"HERE"', '{"a":' * levels + "1" + "}" * levels).encode()


HOSTILE_MANIFESTS = {
    "absolute path": json.dumps(fields(files=[PLAIN | {"path": "/tmp/x"}])).encode(),
    "path upwards": json.dumps(fields(files=[PLAIN | {"path": "../../../x"}])).encode(),
    "path upwards inside": json.dumps(fields(files=[PLAIN | {"path": "a/../../x"}])).encode(),
    "NUL in a path": json.dumps(fields(files=[PLAIN | {"path": "a\0b"}])).encode(),
    "empty path": json.dumps(fields(files=[PLAIN | {"path": ""}])).encode(),
    "long name": json.dumps(fields(files=[PLAIN | {"path": "a" * 300}])).encode(),
    "many folders": json.dumps(fields(files=[PLAIN | {"path": "a/" * 40 + "b"}])).encode(),
    "the manifest itself": json.dumps(fields(files=[PLAIN | {"path": "manifest.json"}])).encode(),
    "a path twice": json.dumps(fields(files=[PLAIN, PLAIN])).encode(),
    "a file that is a folder": json.dumps(fields(files=[PLAIN, PLAIN | {"path": "a.txt/b"}])).encode(),
    "negative size": json.dumps(fields(files=[PLAIN | {"size": -1}])).encode(),
    "absurd size": json.dumps(fields(files=[PLAIN | {"size": 10**30}])).encode(),
    "absurd rows": json.dumps(fields(files=[PLAIN | {"rows": 10**30}])).encode(),
    "too many files": json.dumps(fields(files=[PLAIN | {"path": str(n)} for n in range(50_001)])).encode(),
    "a year far away": json.dumps(fields(created_at="9999-12-31T23:59:59Z")).encode(),
    "a time without zone": json.dumps(fields(created_at="2026-01-02T03:04:05")).encode(),
    "endless seconds": json.dumps(fields(seconds=1e300)).encode(),
    "escape in a node": json.dumps(fields(node="\x1b[2J")).encode(),
    "bidi in a node": json.dumps(fields(node="a\u202eb")).encode(),
    "long node": json.dumps(fields(node="n" * 10_000)).encode(),
    "escape in a parent": json.dumps(
        fields(parents={"\x1b[2J": {"kind": "report", "digest": "0" * 64}})
    ).encode(),
    "odd kind": json.dumps(fields(kind="../../x")).encode(),
    "deep": deep(100),
    "very deep": deep(200_000),
    "NaN": json.dumps(fields(config={"x": float("nan")})).encode(),
    "a long integer": json.dumps(fields(config={"x": "HERE"})).replace('"HERE"', "9" * 5_000).encode(),
    "not JSON": b"\xff\xfe",
    "an array": b"[1]",
    "config is a list": json.dumps(fields(config=[1])).encode(),
}


@pytest.mark.parametrize("what", HOSTILE_MANIFESTS)
def test_a_hostile_manifest_is_refused_in_one_safe_line(what):
    with pytest.raises(CorruptArtifact, match="is not a manifest") as refusal:
        Manifest.parse(HOSTILE_MANIFESTS[what], "where")
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 700


@pytest.mark.slow
def test_hostile_manifests_are_named_and_skipped(store, tmp_path, r1):
    refs = publish_recipe(store, tmp_path)
    loose = publish(store, tmp_path, "loose")
    bad = {plant(store, m, key_of(what)).digest: what for what, m in HOSTILE_MANIFESTS.items()}
    assert all(store.lookup(key_of(what)) is None for what in HOSTILE_MANIFESTS)
    for digest in bad:
        with pytest.raises(CorruptArtifact):
            store.fetch(Ref(kind="checkpoint", digest=digest))
    listed, verified = r1("ls", "--all"), r1("verify")
    assert (listed.exit_code, verified.exit_code) == (0, 1)
    for digest, what in bad.items():
        assert digest[2:] in listed.stderr, what
        assert f"{digest[2:]}/manifest.json is not a manifest" in verified.stdout, what
    assert all(line.isprintable() for line in (listed.output + verified.output).splitlines())
    assert r1("sql", "SELECT count(*) FROM metrics").exit_code == 0
    assert r1("lineage", "dev1").exit_code == 0
    assert r1("gc", "--yes").exit_code == 0
    assert loose.digest not in store.digests()
    assert store.fetch(refs["dev1"]).is_dir()
    assert r1("verify", "--repair").exit_code == 0
    assert set(store.digests()) == {ref.digest for ref in refs.values()}


def test_the_draft_is_held_to_the_same_rules(store, tmp_path):
    draft = make_draft(tmp_path / "draft")
    (draft / "a\u202eb.txt").write_text("x")
    with pytest.raises(StoreError, match="invisible characters"):
        store.publish(draft, manifest_for("base"), TABLES)
    with pytest.raises(ValueError, match="plain text"):
        manifest_for("\x1b[2J")
    summary = manifest_for("base", summary={"words": "\x1b[2J" + "x" * 9_999}).summary
    assert summary["words"].startswith("\\x1b[2J")
    assert len(summary["words"]) <= 256


def fifo(path):
    os.mkfifo(path)


def huge(path):
    with path.open("wb") as file:
        file.truncate(MAX_DOCUMENT * 1_000)


def folder(path):
    path.mkdir()


def link(path):
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("put", "place"),
    [
        *((put, place) for put in (fifo, link) for place in ("manifest", "key", "ref", "table", "signature")),
        (huge, "manifest"), (huge, "ref"), (folder, "manifest"), (folder, "key"),
    ],
)  # fmt: skip
def test_what_is_no_plain_file_of_bounded_size_is_named_and_skipped(put, place, store, tmp_path, r1):
    refs = publish_recipe(store, tmp_path)
    artifact = store.backend.root / object_path(refs["zero"].digest)
    path = {
        "manifest": artifact / "manifest.json", "table": artifact / "metrics.parquet",
        "signature": artifact / "manifest.json.sig", "key": store.backend.root / key_path(key_of("zero")),
        "ref": store.backend.root / ref_path("tiny/zero"),
    }[place]  # fmt: skip
    path.unlink(missing_ok=True)
    put(path)
    assert r1("ls").exit_code == 0
    assert r1("lineage", "dev1").exit_code == 0
    assert r1("gc", "--yes").exit_code == 0
    assert r1("sql", "SELECT count(*) FROM metrics WHERE node = 'dev1'").exit_code == 0
    assert str(path) in r1("verify").stdout
    assert r1("show", "zero").exit_code == 2
    if place in ("manifest", "key"):
        assert store.lookup(key_of("zero")) is None


# Links


def victim(tmp_path):
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    return folder


def untouched(folder):
    return [p.name for p in folder.iterdir()] == ["mine.txt"] and (folder / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name_", ["tmp", "leases", "refs", "keys", "objects", "quarantine"])
def test_a_link_in_the_place_of_a_folder_is_not_followed(name_, store, tmp_path, r1):
    refs = publish_recipe(store, tmp_path)
    loose = publish(store, tmp_path, "loose")
    outside, root = victim(tmp_path), store.backend.root
    os.utime(outside / "mine.txt", (0, 0))
    if (root / name_).exists():
        (root / name_).rename(root / "aside")
    (root / name_).symlink_to(outside)
    assert r1("gc", "--yes").exit_code in (0, 2)
    assert str(root / name_) in r1("verify").stdout
    for attempt in (
        lambda: store.set_ref("tiny/new", refs["zero"]),
        lambda: store.drop_ref("tiny/dev1"),
        lambda: store.backend.remove("tmp/mine.txt"),
        lambda: store.quarantine(loose.digest),
        lambda: store.publish(make_draft(tmp_path / "new"), manifest_for("new"), TABLES),
        lambda: store.lease(key_of("new")).__enter__(),
    ):
        try:
            attempt()
        except StoreError as error:
            assert str(error).isprintable()  # noqa: PT017
    assert untouched(outside)


def test_a_link_in_the_place_of_a_file_is_not_followed(store, tmp_path):
    ref = publish(store, tmp_path, "base")
    outside, root = victim(tmp_path), store.backend.root
    (root / "leases").mkdir()
    (root / "leases" / f"{key_of('x')}.lock").symlink_to(outside / "mine.txt")
    with pytest.raises(StoreError, match="cannot be opened"), store.lease(key_of("x")):
        pass
    (root / "leases" / f"{key_of('y')}.lock").hardlink_to(outside / "mine.txt")
    with pytest.raises(StoreError, match="not a file of its own"), store.lease(key_of("y")):
        pass
    assert store.backend.held_leases() == []
    (root / "refs" / "tiny").mkdir(parents=True)
    (root / "refs" / "tiny" / "base.json").symlink_to(outside / "mine.txt")
    with pytest.raises(CorruptArtifact):
        store.set_ref("tiny/base", ref)
    (root / "refs" / "other").symlink_to(outside)
    with pytest.raises(CorruptArtifact):
        store.set_ref("other/base", ref)
    assert untouched(outside)


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = ArtifactStore.open(str(tmp_path / "link"))
    assert store.fetch(publish(store, tmp_path, "base")).is_dir()


# Names


@pytest.mark.parametrize(
    "odd",
    ["deadbeef", "0" * 64, "tiny/" + "a" * 64, "DEADBEEF99", "a" * 300, "/".join("abcdefghijklmnopqrst")],
)
def test_a_name_that_could_be_a_digest_or_is_absurd_is_refused(odd, store, tmp_path):
    ref = publish(store, tmp_path, "base")
    with pytest.raises(StoreError, match="is no ref name"):
        store.set_ref(odd, ref)


def test_a_name_never_stands_for_another_digest(store, tmp_path, r1):
    honest, evil = publish(store, tmp_path, "honest"), publish(store, tmp_path, "evil")
    for text in (honest.digest, f"tiny/{honest.digest}", honest.short, f"tiny/{honest.short}"):
        name(store, text, evil)
    assert store.resolve(honest.digest, "tiny") == honest
    assert store.resolve(honest.short, "tiny") == honest
    assert store.refs() == {}
    assert honest.short in r1("ls").stderr
    assert r1("verify").stdout.count("is not a ref") == 4


@pytest.mark.parametrize("odd", ["a b", "x\x1b[2J", "a\u202eb", ".hidden", "-x/y", "n" * 200])
def test_an_odd_file_among_the_names_is_named_and_skipped(odd, store, tmp_path, r1):
    refs = publish_recipe(store, tmp_path)
    for ending in ("json", "txt"):
        path = store.backend.root / "refs" / f"{odd}.{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    assert list(store.refs()) == ["tiny/dev1"]
    listed = r1("ls")
    assert listed.exit_code == 0
    assert all(line.isprintable() for line in listed.output.splitlines())
    assert printable(odd) in listed.stderr
    assert "is not a ref" in r1("verify").stdout
    assert r1("gc", "--yes").exit_code == 0
    assert refs["base"].digest in store.digests()


# Object stores


@pytest.mark.parametrize("scheme", ["memory", "local"])
@pytest.mark.parametrize("path", ["{victim}", "../../../../{victim}", "a/../../../../../../../../{victim}"])
def test_a_planted_path_writes_nothing_outside_on_fetch(scheme, path, tmp_path):
    outside = victim(tmp_path)
    target = path.format(victim=outside / "mine.txt")
    url = {"memory": f"memory://{uuid.uuid4().hex}", "local": f"local://{tmp_path}/objects"}[scheme]
    remote = ArtifactStore.open(url)
    bad = plant(remote, canonical_json(fields(files=[PLAIN | {"path": target}])), key_of("planted"))
    assert remote.lookup(key_of("planted")) is None
    with pytest.raises(CorruptArtifact, match="not a path inside the artifact"):
        remote.fetch(bad)
    assert untouched(outside)


@pytest.mark.parametrize("scheme", ["memory", "local"])
def test_a_download_is_hashed_before_it_can_be_seen(scheme, tmp_path):
    url = {"memory": f"memory://{uuid.uuid4().hex}", "local": f"local://{tmp_path}/objects"}[scheme]
    remote = ArtifactStore.open(url)
    bad = plant(remote, canonical_json(fields()), data=b"HELLO")
    with pytest.raises(CorruptArtifact, match="other bytes"):
        remote.fetch(bad)
    larger = plant(remote, canonical_json(fields("larger")), data=b"hello" * 1_000)
    with pytest.raises(CorruptArtifact, match="has 5000 bytes instead of 5"):
        remote.fetch(larger)
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []
    good = plant(remote, canonical_json(fields("good")))
    assert (remote.fetch(good) / "a.txt").read_bytes() == b"hello"
    assert list((tmp_path / "cache").glob("*/tmp/*")) == []


# Graphs and tables


def diamond(store, levels: int) -> Ref:
    """Each level has two artifacts with the two of the level below as parents: 2^levels paths."""
    pair: list[Ref] = []
    for level in range(levels):
        parents = {f"p{n}": ref.model_dump() for n, ref in enumerate(pair)}
        pair = [
            plant(store, canonical_json(fields(f"{level}-{side}", parents=parents))) for side in ("a", "b")
        ]
    return pair[0]


def test_a_diamond_is_walked_once_for_each_artifact(store, tmp_path, r1):
    top = diamond(store, 40)
    name(store, "tiny/top", top)
    assert len(lineage(store, top).nodes) == 79
    assert len(r1("lineage", "top").stdout.splitlines()) < 200
    model = publish_model(store, tmp_path, "model", {"checkpoint": top})
    store.set_ref("tiny/model", model)
    assert r1("export", "model", str(tmp_path / "out")).exit_code == 0
    assert r1("gc", "--yes").exit_code == 0
    assert len(store.digests()) == 80


@pytest.mark.slow
def test_a_long_chain_is_drawn_in_part(store):
    ref = None
    for number in range(2_000):
        parents = {"checkpoint": ref.model_dump()} if ref else {}
        ref = plant(store, canonical_json(fields(str(number), parents=parents)))
    graph = lineage(store, ref)
    assert len(graph.nodes) == 2_000
    assert len(graph.tree().splitlines()) == MAX_DRAWN + 1
    assert graph.tree().splitlines()[-1] == "… 2000 artifacts in all"
    assert graph.mermaid().count("\n") <= 2 * MAX_DRAWN
    assert ref.short[:8] in graph.mermaid()


def test_a_damaged_parent_is_drawn_as_such(store, tmp_path):
    refs = publish_recipe(store, tmp_path)
    (store.backend.root / object_path(refs["zero"].digest) / "manifest.json").write_bytes(b"{}")
    assert f"dataset: damaged (checkpoint, {refs['zero'].short})" in lineage(store, refs["dev1"]).tree()


@pytest.mark.parametrize("data", [b"", b"PAR1 no Parquet PAR1", None])
def test_a_damaged_table_is_left_out_of_queries(data, any_store, tmp_path):
    publish_recipe(any_store, tmp_path)
    if data is None:  # whole at its end, damaged within
        whole = (make_draft(tmp_path / "other") / "metrics.parquet").read_bytes()
        data = whole[:4] + b"\xff" * 60 + whole[64:]
    entry = {"path": "metrics.parquet", "size": len(data), "sha256": hashlib.sha256(data).hexdigest(),
             "rows": 3, "table": "metrics"}  # fmt: skip
    bad = plant(any_store, canonical_json(fields(files=[entry])))
    any_store.backend.write(f"{object_path(bad.digest)}/metrics.parquet", data)
    skipped: list[StoreError] = []
    rows = query.sql(any_store, "SELECT count(*), sum(step), max(name) FROM metrics", TABLES, skipped.append)
    assert rows.to_pylist()[0]["count_star()"] == 12
    assert len(skipped) == 1
    assert bad.digest[2:] in str(skipped[0])


# Trust


@pytest.fixture
def signer(tmp_path) -> Trust:
    """The trust of this installation, turned on."""
    return Trust.load(tmp_path / "own").turn(required=True)


def reopened(store, trust) -> ArtifactStore:
    return ArtifactStore(store.backend, trust)


def test_a_planted_artifact_is_no_hit_where_trust_is_required(any_store, tmp_path, signer):
    planted = plant(any_store, canonical_json(fields()), key_of("planted"))
    assert any_store.lookup(key_of("planted")) == planted, "without trust the bytes decide"
    guarded = reopened(any_store, signer)
    assert guarded.lookup(key_of("planted")) is None
    with pytest.raises(UntrustedArtifact, match="not signed by a trusted key"):
        guarded.fetch(planted)
    own = guarded.publish(make_draft(tmp_path / "draft"), manifest_for("planted"), TABLES)
    assert own != planted
    assert guarded.lookup(key_of("planted")) == own
    assert guarded.fetch(own).is_dir()
    assert catalog.verify(guarded) == []


def test_an_artifact_of_somebody_else_counts_once_their_key_is_trusted(any_store, tmp_path, signer):
    colleague = Trust.load(tmp_path / "theirs").turn(required=False)
    ref = publish(reopened(any_store, colleague), tmp_path, "base")
    assert reopened(any_store, signer).lookup(key_of("base")) is None
    trusting = signer.add(colleague.public_key(), "anna")
    assert reopened(any_store, Trust.load(tmp_path / "own")).lookup(key_of("base")) == ref
    assert reopened(any_store, trusting.remove("anna")).lookup(key_of("base")) is None


def test_a_signature_fits_one_manifest_only(any_store, tmp_path, signer):
    guarded = reopened(any_store, signer)
    own = publish(guarded, tmp_path, "base")
    signature = any_store.backend.read(f"{object_path(own.digest)}/manifest.json.sig")
    planted = plant(any_store, canonical_json(fields()), key_of("planted"))
    for forged in (signature, b"", b"{}", b'{"public_key": 1}', b"[" * 3_000, b"x" * 10_000):
        any_store.backend.write(f"{object_path(planted.digest)}/manifest.json.sig", forged)
        assert guarded.lookup(key_of("planted")) is None
    assert b"signature" not in any_store.backend.read(f"{object_path(own.digest)}/manifest.json")


def test_the_private_key_is_private(tmp_path, signer):
    assert stat.S_IMODE((tmp_path / "own" / "private_key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700
    (tmp_path / "own" / "trust.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        Trust.load(tmp_path / "own")


def test_the_trust_commands(r1, store, tmp_path, monkeypatch):
    monkeypatch.setenv("R1_HOME", str(tmp_path / "home"))
    ref = publish(store, tmp_path, "base")
    store.set_ref("tiny/base", ref)
    assert "not required" in r1("trust", "list").stdout
    assert not (tmp_path / "home").exists(), "looking makes no key"
    assert r1("trust", "sign", "base").exit_code == 2
    assert r1("trust", "on").stdout.startswith("trust is required")
    assert ArtifactStore.open(store.url).lookup(key_of("base")) is None
    assert r1("trust", "sign", "base").exit_code == 0
    assert ArtifactStore.open(store.url).lookup(key_of("base")) == ref
    assert r1("trust", "add", "12", "anna").exit_code == 2
    assert "anna" in r1("trust", "add", "ab" * 32, "anna").stdout
    assert "anna" not in r1("trust", "remove", "anna").stdout
    assert r1("trust", "remove", "anna").exit_code == 2
    assert "not required" in r1("trust", "off").stdout


# Permissions and credentials


def modes(root):
    return {stat.S_IMODE(p.stat().st_mode) for p in root.rglob("*") if p.is_dir()}, {
        stat.S_IMODE(p.stat().st_mode) for p in root.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize(
    ("root_mode", "expected"),
    [
        (None, (0o700, 0o600)), (0o755, (0o700, 0o600)), (0o777, (0o700, 0o600)), (0o750, (0o750, 0o640)),
        (0o2770, (0o2770, 0o660)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_store_is_private_unless_its_root_is_shared_on_purpose(root_mode, expected, umask, tmp_path):
    root = tmp_path / "store"
    if root_mode is not None:
        root.mkdir()
        root.chmod(root_mode)
    before = os.umask(umask)
    try:
        store = ArtifactStore.open(str(root))
        store.set_ref("tiny/base", publish(store, tmp_path, "base"))
        with store.lease(key_of("x")):
            assert modes(root) == ({expected[0]}, {expected[1]})
    finally:
        os.umask(before)
    assert root_mode is not None or stat.S_IMODE(root.stat().st_mode) == 0o700


def test_credentials_in_an_address_are_never_shown(tmp_path):
    url = "ftp://anna:s3cret@host/store?token=s3cret"
    assert redacted(f"cannot open {url} now") == "cannot open ftp://***@host/store?*** now"
    with pytest.raises(StoreError) as refusal:
        ArtifactStore.open("nonsense://anna:s3cret@host/x")
    assert "s3cret" not in str(refusal.value)
    store = ArtifactStore.open(f"memory://anna:s3cret@{uuid.uuid4().hex}")
    ref = publish(store, tmp_path, "base")
    assert "s3cret" not in store.url
    assert b"s3cret" not in store.backend.read(f"{object_path(ref.digest)}/manifest.json")
    with pytest.raises(UnknownArtifact) as missing:
        store.manifest("0" * 64)
    assert "s3cret" not in str(missing.value)


def test_the_store_imports_nothing_of_the_recipe():
    script = (
        "import sys, pkgutil, importlib, artifacts\n"
        "for m in pkgutil.iter_modules(artifacts.__path__): importlib.import_module('artifacts.' + m.name)\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('tasks', 'flows', 'torch', 'prefect')])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_a_checkpoint_asked_for_as_another_kind_is_refused(store, tmp_path):
    ref = publish(store, tmp_path, "base")
    with pytest.raises(UnknownArtifact, match="is a checkpoint, not a dataset"):
        store.fetch(Ref(kind=Kind.dataset, digest=ref.digest))
