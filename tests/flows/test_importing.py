"""Checkpoints and tables of one's own: what is taken, what is refused, and under which name."""

import pytest

from artifacts.tables import write_table
from flows.experiments import Variant
from flows.graph import load_pipeline
from flows.importing import import_artifact
from flows.plan import plan
from tasks.presets import CONFIGS, PresetError
from tasks.tables import SFT

ROW = {
    "problem_id": "a",
    "domain": "math",
    "language": "en",
    "prompt": "1?",
    "completion": "1",
    "source": "me",
}
BASE = CONFIGS.parent / "tasks/tiny_world/weights/tiny-base"


def test_a_table_stands_for_a_data_set(store, tmp_path):
    write_table(tmp_path / "mine.parquet", [ROW], SFT)
    pipeline = load_pipeline("tiny")
    name, ref = import_artifact(store, pipeline, tmp_path / "mine.parquet", "cold_start")
    assert name.startswith("tiny/cold-start@import-")
    manifest = store.manifest(ref.digest)
    assert (manifest.stage, manifest.summary["rows"]) == ("import", 1)
    assert manifest.config["imported_from"] == str(tmp_path / "mine.parquet")
    assert import_artifact(store, pipeline, tmp_path / "mine.parquet", "cold-start", "own")[1] == ref
    assert store.get_ref("tiny/cold-start") is None
    used = load_pipeline("tiny", variant=Variant(use={"cold-start": name}))
    rows = {row.node: row for row in plan(used, store)}
    assert rows["cold-start"].ref == ref


@pytest.mark.slow
def test_a_model_folder_stands_for_a_checkpoint(store):
    name, ref = import_artifact(store, load_pipeline("tiny"), BASE, "dev1", "own")
    assert (name, ref.kind) == ("tiny/dev1@own", "checkpoint")
    assert store.get_ref("tiny/dev1") is None


@pytest.mark.parametrize(
    ("node", "rows", "said"),
    [
        ("dev9", [ROW], "--as: the recipe has no node 'dev9': did you mean dev"),
        ("dev1", [ROW], "no config.json there"),
        ("reward-models", [ROW], "cannot be imported: name a checkpoint or a table"),
        ("evaluation.r1", [ROW], "cannot be imported"),
        ("mixture", [ROW | {"completion": " "}], "an empty completion: fix the table"),
        ("mixture", [], "no rows: fix the table"),
    ],
)
def test_what_cannot_stand_for_a_node_is_refused_in_one_sentence(node, rows, said, store, tmp_path):
    write_table(tmp_path / "sft.parquet", rows, SFT)
    with pytest.raises(PresetError) as refused:
        import_artifact(store, load_pipeline("tiny"), tmp_path, node)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert store.digests() == []


def test_a_file_that_is_no_table_is_refused(store, tmp_path):
    (tmp_path / "x.parquet").write_text("not parquet")
    for path in (tmp_path / "x.parquet", tmp_path / "none"):
        with pytest.raises(PresetError, match=r"is no Parquet file of the table|does not exist"):
            import_artifact(store, load_pipeline("tiny"), path, "mixture")
