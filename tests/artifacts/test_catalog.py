import os
import shutil
import time

import pytest

from artifacts import catalog, query
from artifacts.errors import CorruptArtifact, StoreBusy, StoreError
from artifacts.lineage import lineage
from artifacts.store import ArtifactStore, key_path, object_path, ref_path
from tasks.tables import TABLES
from tests.artifacts.builders import key_of, make_draft, manifest_for, publish, publish_recipe


def flip(path, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def sql(store, text):
    return query.sql(store, text, TABLES)


def wheres(findings):
    return [finding.where for finding in findings]


def test_a_healthy_store_has_no_findings(any_store, tmp_path):
    publish_recipe(any_store, tmp_path)
    assert catalog.verify(any_store) == []


def test_every_flipped_byte_is_found(store, tmp_path):
    ref = publish(store, tmp_path, "base")
    store.set_ref("tiny/base", ref)
    files = [p for p in (store.backend.root / object_path(ref.digest)).rglob("*") if p.is_file()]
    files.append(store.backend.root / key_path(key_of("base")))
    assert len(files) == 6
    for path in files:
        whole = path.read_bytes()
        for position in range(0, len(whole), max(1, len(whole) // 40)):
            flip(path, position, position % 8)
            assert str(path) in wheres(catalog.verify(store)), (path, position)
            path.write_bytes(whole)
    assert catalog.verify(store) == []


def test_a_flipped_byte_in_a_name_is_found(store, tmp_path):
    store.set_ref("tiny/base", publish(store, tmp_path, "base"))
    path = store.backend.root / ref_path("tiny/base")
    whole = path.read_bytes()
    covered = [n for n in range(len(whole)) if not whole.index(b"updated_at") + 12 < n < len(whole) - 2]
    for position in covered:
        flip(path, position)
        assert str(path) in wheres(catalog.verify(store)), position
        path.write_bytes(whole)


def _truncate(folder):
    data = (folder / "metrics.parquet").read_bytes()
    (folder / "metrics.parquet").write_bytes(data[:-1])
    return "metrics.parquet"


def _lose_shard(folder):
    (folder / "rejected" / "00001.parquet").unlink()
    return "rejected/00001.parquet"


def _lose_weights(folder):
    shutil.rmtree(folder / "model")
    return "model/model.safetensors"


def _add(folder):
    (folder / "rejected" / "00002.parquet").write_bytes(b"")
    return "rejected/00002.parquet"


def _link(folder):
    path = folder / "model" / "model.safetensors"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")
    return "model/model.safetensors"


def _lose_manifest(folder):
    (folder / "manifest.json").unlink()
    return "manifest.json"


@pytest.mark.parametrize("damage", [_truncate, _lose_shard, _lose_weights, _add, _link, _lose_manifest])
def test_damage_is_found_refused_and_mended(damage, store, tmp_path):
    refs = publish_recipe(store, tmp_path)
    folder = store.backend.root / object_path(refs["dev1"].digest)
    where = folder / damage(folder)
    findings = catalog.verify(store)
    assert str(where) in wheres(findings)
    if damage is not _lose_manifest:
        with pytest.raises(CorruptArtifact, match=where.name):
            store.fetch(refs["dev1"])
    catalog.repair(store, findings)
    assert store.lookup(key_of("dev1")) is None
    store.set_ref("tiny/dev1", store.publish(make_draft(tmp_path / "again"), manifest_for("dev1"), TABLES))
    assert catalog.verify(store) == []


def test_remote_damage_is_found(tmp_path):
    remote = ArtifactStore.open(f"local://{tmp_path}/objects")
    publish_recipe(remote, tmp_path)
    weights = sorted((tmp_path / "objects").rglob("model.safetensors"))
    flip(weights[0], 100)
    weights[1].unlink()
    assert sorted(f.what for f in catalog.verify(remote)) == [
        "has other bytes than were published",
        "is missing",
    ]


def test_bad_key_entries_are_found_and_rewritten(any_store, tmp_path):
    refs = publish_recipe(any_store, tmp_path)
    any_store.backend.write(key_path(key_of("zero")), b'{"key": "nonsense"}')
    any_store.backend.remove(key_path(key_of("dev1")))
    any_store.set_key(any_store.manifest(refs["base"].digest).model_copy(update={"key": key_of("nobody")}))
    findings = catalog.verify(any_store)
    assert len(findings) == 3
    catalog.repair(any_store, findings)
    assert catalog.verify(any_store) == []
    assert any_store.lookup(key_of("zero")) == refs["zero"]
    assert any_store.lookup(key_of("dev1")) == refs["dev1"]


def test_names_and_parents_of_nothing_are_found(any_store, tmp_path):
    refs = publish_recipe(any_store, tmp_path)
    any_store.quarantine(refs["zero"].digest)
    any_store.backend.remove(object_path(refs["dev1"].digest))
    whats = sorted(finding.what for finding in catalog.verify(any_store))
    assert any("names an artifact that is gone" in what for what in whats)
    other = publish(any_store, tmp_path, "other", {"dataset": refs["zero"]})
    assert any(
        "has a parent dataset" in f.what for f in catalog.verify(any_store) if other.digest[2:] in f.where
    )
    assert lineage(any_store, other).tree().splitlines()[1].startswith("└─ dataset: missing")


def test_gc_keeps_what_names_reach(any_store, tmp_path):
    refs = publish_recipe(any_store, tmp_path)
    loose = publish(any_store, tmp_path, "loose", {"checkpoint": refs["zero"]})
    plan = catalog.gc(any_store)
    assert [m.ref for m in plan.objects] == [loose]
    assert plan.size == any_store.manifest(loose.digest).size > 2048
    assert any_store.lookup(key_of("loose")) == loose
    catalog.gc(any_store, dry_run=False)
    assert any_store.lookup(key_of("loose")) is None
    assert {m.ref for m in any_store.objects()} == set(refs.values())
    assert catalog.verify(any_store) == []


def test_gc_forgets_names_when_told(any_store, tmp_path):
    refs = publish_recipe(any_store, tmp_path)
    any_store.set_ref("other/zero", refs["zero"])
    assert {m.node for m in catalog.gc(any_store, forget=["tiny/dev1"]).objects} == {"dev1"}
    assert set(any_store.refs()) == {"other/zero", "tiny/dev1"}
    catalog.gc(any_store, dry_run=False, forget=["tiny/dev1"])
    assert set(any_store.refs()) == {"other/zero"}
    assert {m.node for m in any_store.objects()} == {"zero", "base", "problems"}


def test_gc_removes_old_leftovers_and_spares_fresh_ones(store, tmp_path):
    publish(store, tmp_path, "base")
    root = store.backend.root
    (root / "tmp" / "old").mkdir(parents=True)
    (root / "tmp" / "old" / "part").write_bytes(b"x")
    (root / "tmp" / "fresh").mkdir()
    (root / "keys" / ".ab.json.0123.tmp").write_bytes(b"")
    day_ago = time.time() - 86_400
    for path in (root / "tmp" / "old" / "part", root / "tmp" / "old", root / "keys" / ".ab.json.0123.tmp"):
        os.utime(path, (day_ago, day_ago))
    assert sorted(catalog.gc(store, dry_run=False).stale) == ["keys/.ab.json.0123.tmp", "tmp/old"]
    assert [p.name for p in (root / "tmp").iterdir()] == ["fresh"]


def test_gc_waits_for_builds_and_never_guesses(store, tmp_path):
    ref = publish(store, tmp_path, "base")
    with store.lease(key_of("dev1")), pytest.raises(StoreBusy, match=r"a build of .* is running"):
        catalog.gc(store, dry_run=False)
    loose, child = publish(store, tmp_path, "loose"), publish(store, tmp_path, "child", {"checkpoint": ref})
    store.set_ref("tiny/child", child)
    flip(store.backend.root / object_path(child.digest) / "manifest.json", 3)
    skipped = []
    assert catalog.gc(store, dry_run=False, report=skipped.append).objects == ()
    assert "has other bytes than were published" in str(skipped[0])
    store.drop_ref("tiny/child")
    assert {m.ref for m in catalog.gc(store, dry_run=False).objects} == {ref, loose}


def test_lineage_reaches_the_roots(any_store, tmp_path):
    refs = publish_recipe(any_store, tmp_path)
    graph = lineage(any_store, refs["dev1"])
    assert graph.root.ref == refs["dev1"]
    assert {node.name for node in graph.nodes.values()} == {"base", "problems", "zero", "dev1"}
    assert graph.tree().splitlines() == [
        f"dev1 (checkpoint, {refs['dev1'].short})",
        f"├─ checkpoint: base (checkpoint, {refs['base'].short})",
        f"└─ dataset: zero (checkpoint, {refs['zero'].short})",
        f"   ├─ checkpoint: base (checkpoint, {refs['base'].short})",
        f"   └─ problems: problems (problems, {refs['problems'].short})",
    ]
    assert graph.mermaid().count("-->") == 4
    assert graph.mermaid().startswith("flowchart LR\n")


def test_odd_names_end_no_mermaid_label(store, tmp_path):
    odd = publish(store, tmp_path, 'a"<b>&', config={})
    child = publish(store, tmp_path, "child", {'in"<put>': odd})
    diagram = lineage(store, child).mermaid()
    assert "a&quot;&lt;b&gt;&amp;" in diagram
    assert '-->|"in&quot;&lt;put&gt;"|' in diagram


def test_sql_sees_every_table(any_store, tmp_path):
    publish_recipe(any_store, tmp_path)
    rows = sql(
        any_store,
        "SELECT node, count(*) AS n, avg(value) AS v FROM metrics GROUP BY node ORDER BY node",
    )
    assert rows.to_pylist() == [{"node": n, "n": 3, "v": 1.5} for n in ("base", "dev1", "problems", "zero")]
    assert sql(any_store, "SELECT count(*) AS n FROM rejected WHERE preset = 'tiny'")["n"].to_pylist() == [8]
    assert sql(any_store, "SELECT * FROM scores").num_rows == 0
    named = sql(
        any_store,
        "SELECT a.node, a.config->>'template' AS t FROM refs JOIN artifacts a USING (digest)",
    )
    assert named.to_pylist() == [{"node": "dev1", "t": None}]
    assert (
        sql(any_store, "SELECT config->>'template' AS t FROM artifacts WHERE node = 'zero'")["t"][0].as_py()
        == "plain"
    )


def test_a_bad_query_is_one_line(store):
    with pytest.raises(StoreError, match=r"the query failed: .*nothere") as failure:
        sql(store, "SELECT * FROM nothere")
    assert "\n" not in str(failure.value)
