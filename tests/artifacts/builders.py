"""Small real artifacts for the store's tests."""

import hashlib
from pathlib import Path

from artifacts.manifest import ManifestDraft
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from artifacts.tables import write_table
from tasks.kinds import Kind
from tasks.tables import METRICS, REJECTED, TABLES


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_draft(folder: Path, value: float = 0.5) -> Path:
    """A checkpoint-like draft: a table, shards, and a binary file in a folder of its own."""
    rows = [{"step": n, "name": "loss", "value": value + n} for n in range(3)]
    write_table(folder / "metrics.parquet", rows, METRICS)
    rejected = {"problem_id": "p1", "text": "好", "reason": "wrong", "detail": ""}
    for shard in ("00000", "00001"):
        write_table(folder / "rejected" / f"{shard}.parquet", [rejected], REJECTED)
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    return folder


def manifest_for(
    node: str, parents: dict[str, Ref] | None = None, kind: Kind = Kind.checkpoint, **more
) -> ManifestDraft:
    return ManifestDraft(
        kind=kind, stage="sft", stage_version=1, node=node, preset="tiny", key=key_of(node),
        parents=parents or {}, versions={"torch": "2.13.0"}, seconds=1.5, **more,
    )  # fmt: skip


def publish(
    store: ArtifactStore, tmp_path: Path, node: str, parents=None, kind=Kind.checkpoint, **more
) -> Ref:
    draft = make_draft(tmp_path / "drafts" / node)
    return store.publish(draft, manifest_for(node, parents, kind, **more), TABLES)


def publish_recipe(store: ArtifactStore, tmp_path: Path) -> dict[str, Ref]:
    """base and problems -> zero -> dev1 (from base and zero), dev1 named."""
    base = publish(store, tmp_path, "base")
    problems = publish(store, tmp_path, "problems", kind=Kind.problems)
    zero = publish(
        store, tmp_path, "zero", {"checkpoint": base, "problems": problems}, config={"template": "plain"}
    )
    dev1 = publish(store, tmp_path, "dev1", {"checkpoint": base, "dataset": zero})
    store.set_ref("tiny/dev1", dev1)
    return {"base": base, "problems": problems, "zero": zero, "dev1": dev1}
