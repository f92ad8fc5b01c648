import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from artifacts.manifest import ManifestDraft
from artifacts.store import key_path, object_path, ref_path
from flows.graph import load_pipeline
from flows.plan import code_warnings, named_rows, plan
from tasks import recipe, source_code
from tasks.presets import CONFIGS, PresetError
from tasks.recipe import STAGES
from tasks.tables import TABLES
from tests.flows.conftest import Publisher

STUDENT = "tiny-student-distilled"


def misses(preset: str, store) -> dict[str, str]:
    """Node -> why it is not reused."""
    return {row.node: row.outcome for row in plan(load_pipeline(preset), store) if not row.hit}


def evaluated(*nodes: str) -> set[str]:
    return {f"evaluation.{node}" for node in nodes}


def test_an_empty_store_has_nothing(preset, store):
    rows = plan(load_pipeline(preset()), store)
    assert [row.node for row in rows][:4] == ["problems", "base", "r1-zero", "cold-start"]
    assert len(rows) == 23
    assert {row.outcome for row in rows} == {"never built"}
    assert [row.node for row in rows if row.key] == ["problems", "base", "tiny-student-base"]


def test_a_finished_run_is_reused_whole(built, store):
    rows = plan(built, store)
    assert all(row.hit for row in rows)
    assert rows[-1].outcome == f"is {store.get_ref(built.ref_name('report')).short}"


def test_a_base_trained_again_in_its_folder_is_another_base(preset, store, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(CONFIGS.parent / "tasks/tiny_world/weights/tiny-base", base)
    path = preset({"base.model": str(base)})
    pipeline = load_pipeline(path)
    pipeline.walk(Publisher(pipeline, store, tmp_path / "drafts"))
    assert not misses(path, store)
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert misses(path, store)["base"] == "the files it reads from outside the store changed"


@pytest.mark.parametrize(
    ("changes", "redone", "why"),
    [
        ({"r1.temperature": 0.8}, {"r1", *evaluated("r1"), "report"},
         ("r1", "temperature changed from 0.7 to 0.8")),
        ({"student-rl-only.steps": 7}, {"tiny-student-rl-only", *evaluated("tiny-student-rl-only"), "report"},
         ("tiny-student-rl-only", "steps changed from 36 to 7")),
        ({"reward-models.seed": 9}, {"reward-models", "r1", *evaluated("r1"), "report"},
         ("r1", "waits for reward-models")),
        ({"mixture.keep_per_problem": 3},
         {"mixture", "dev3", "reward-models", "r1", STUDENT, *evaluated("dev3", "r1", STUDENT), "report"},
         ("dev3", "waits for mixture")),
        ({"dev2.rewards": [{"name": "accuracy"}]},
         {"dev2", "mixture", "dev3", "reward-models", "r1", STUDENT,
          *evaluated("dev2", "dev3", "r1", STUDENT), "report"},
         ("dev2", "rewards changed from ")),
    ],
)  # fmt: skip
def test_a_change_redoes_its_stage_and_what_depends_on_it(built, store, preset, changes, redone, why):
    found = misses(preset(changes), store)
    assert set(found) == redone
    assert why[1] in found[why[0]]


def test_a_protocol_change_evaluates_again_and_trains_nothing(built, store, preset):
    found = misses(preset({"evaluation.samples_per_problem": 5}), store)
    assert all(node.startswith("evaluation.") or node == "report" for node in found)
    assert len(found) == 10
    assert "; and 6 more" in found["report"]


def test_settings_that_do_not_decide_a_result_change_nothing(built, store, preset):
    quicker = {
        "r1-zero.micro_batch_tokens": 32,
        "dev1.checkpoint_every": 1,
        "evaluation.engine": {"batch_size": 9},
    }
    assert misses(preset(quicker), store) == {}


def test_a_raised_stage_version_redoes_the_stage(built, store, preset, monkeypatch):
    monkeypatch.setattr(recipe, "FINAL_RL", replace(recipe.FINAL_RL, version=recipe.FINAL_RL.version + 1))
    found = misses(preset(), store)
    assert set(found) == {"r1", "evaluation.r1", "report"}
    raised = recipe.FINAL_RL.version
    assert found["r1"] == f"stage final-rl is now version {raised} (was {raised - 1})"


def test_a_lost_artifact_is_said_to_be_gone(built, store, preset):
    lost = store.get_ref(built.ref_name("dev2"))
    (store.backend.root / object_path(lost.digest)).rename(store.backend.root / "aside")
    assert misses(preset(), store)["dev2"] == f"the newest artifact, {lost.short}, is gone from the store"


def test_the_command_shows_every_word_and_needs_no_torch(built, preset):
    script = """
import json, resource, sys
from flows import cli
sys.argv = ["r1", "plan", "--preset", sys.argv[1]]
try:
    cli.main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    heavy = sorted({"torch", "transformers", "trl", "prefect", "pyarrow"} & set(sys.modules))
    print(json.dumps({"heavy": heavy, "seconds": used.ru_utime + used.ru_stime}))
"""
    path = preset({"evaluation.samples_per_problem": 5, "evaluation.seed": 99, "evaluation.template": "r1"})
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    *table, last = done.stdout.splitlines()
    changes = [
        "template changed from plain to r1",
        "samples_per_problem changed from 4 to 5",
        "seed changed from 4 to 99",
    ]
    row = next(line for line in table if line.startswith("evaluation.r1 "))
    assert row.split(maxsplit=5)[5].rstrip() == "; ".join(changes)
    assert table[-1] == "13 of 23 nodes would be reused"
    measured = json.loads(last)
    assert measured["heavy"] == []
    assert measured["seconds"] < 2  # of processor time: a busy machine does not change it


@pytest.mark.parametrize("damage", [b"", b"{", b'{"name": 1}', b"\xff"])
@pytest.mark.parametrize("what", ["name", "key", "manifest", "file"])
def test_a_damaged_entry_never_stops_a_plan(what, damage, built, preset, store):
    ref = store.get_ref(built.ref_name("dev1"))
    key = store.manifest(ref.digest).key
    path = {
        "name": ref_path(built.ref_name("dev1")),
        "key": key_path(key),
        "file": f"{object_path(ref.digest)}/content.txt",
        "manifest": f"{object_path(ref.digest)}/manifest.json",
    }[what]
    store.backend.write(path, damage)
    rows = {row.node: row for row in plan(load_pipeline(preset()), store)}
    if what in ("name", "key"):
        assert rows["dev1"].ref == ref, "the artifact is whole"
    else:
        assert not rows["dev1"].hit
        assert "is damaged" in rows["dev1"].outcome
        assert "waits for dev1" in rows["dev2"].outcome


@pytest.mark.slow
def test_a_hit_of_other_code_is_named_with_its_files_and_made_again_if_asked(built, store, preset, tmp_path):
    node, key = "dev2", next(row.key for row in plan(built, store) if row.node == "dev2")
    assert code_warnings(plan(built, store)) == []  # made before sources were recorded
    before = store.manifest(store.lookup(key).digest)
    store.forget_key(key)
    draft = tmp_path / "again"
    draft.mkdir()
    (draft / "content.txt").write_text(node)
    sources = source_code.sources(STAGES["reasoning-rl"].entry)
    edited = {name: d if name != "tasks/rl/train.py" else "0:0" for name, d in sources.items()}
    fields = before.model_dump(include=set(ManifestDraft.model_fields)) | {"sources": edited}
    ref = store.publish(draft, ManifestDraft(**fields), TABLES)
    assert ref != before.ref
    rows = plan(built, store)
    (warning,) = code_warnings(rows)
    assert warning.startswith("made by other code, and reused: dev2 (tasks/rl/train.py changed since)")
    assert "`r1 run --rebuild dev2`" in warning
    (row,) = named_rows(rows, ["reasoning_rl"], built)
    store.forget_key(row.key)
    assert misses(preset(), store)["mixture"] == "waits for dev2"
    assert store.manifest(ref.digest).ref == ref  # it stays until `r1 gc`
    with pytest.raises(PresetError, match="--rebuild: the recipe has no node 'dev9'"):
        named_rows(rows, ["dev9"], built)
