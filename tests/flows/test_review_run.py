"""A pipeline that waits for a person, on a real server with real workers; the form is filled in over HTTP."""

import json
import shutil
import time
from pathlib import Path

import pytest
import yaml

from artifacts.lineage import lineage
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import api, services
from flows.experiments import Variant
from flows.graph import Pipeline, load_pipeline
from tasks.presets import CONFIGS
from tasks.review import count_rows, newest, note, rows_of
from tasks.settings import REPOSITORY
from tests.e2e.machine import Machine, wait_until
from tests.flows.conftest import Publisher
from tests.worlds import sums, write_problems

pytestmark = pytest.mark.slow
ROWS = 12


class Prepared(Publisher):
    """Publishes all that comes before Dev1, with the real base, so that only Dev1 is left to train."""

    def make(self, node, stage, config, **inputs):
        return inputs["dataset"] if node == "dev1" else super().make(node, stage, config, **inputs)

    def fill(self, draft, node):
        super().fill(draft, node)
        if node.name == "base":
            shutil.copytree(REPOSITORY / node.config.model, draft / "model")
        elif node.name == "problems":
            write_problems(draft, sums())


def write_preset(folder: Path) -> str:
    document = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
    document["dev1"] |= {"epochs": 1, "batch_size": 8}
    document["review"] = {"nodes": ["cold-start"], "rows": 5}
    path = folder / "reviewed.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    made = Machine(tmp_path, "tiny")
    for name in ("R1_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, made.environment[name])
    monkeypatch.chdir(REPOSITORY)
    try:
        made.start("up").wait(400)
        yield made
    finally:
        made.start("down").wait(60)


def prepared(pipeline: Pipeline, store: ArtifactStore, folder: Path) -> Ref:
    return pipeline.walk(Prepared(pipeline, store, folder))


def question(run: str) -> dict | None:
    """What the page of a suspended run shows: the form and the words above it."""
    with services.client() as server:
        state = server.get(f"flow_runs/{run}").raise_for_status().json()["state"]
        if state["name"] != "Suspended":
            assert state["type"] not in ("FAILED", "CRASHED"), state["message"]
            return None
        keys = state["state_details"]["run_input_keyset"]
        shown = {name: server.get(f"flow_runs/{run}/input/{key}") for name, key in keys.items()}
    return {name: reply.text for name, reply in shown.items() if reply.status_code == 200}


def asked(run: str, after: str = "") -> str:
    """The description of the question that the run waits for, once it is another one than `after`."""
    deadline = time.monotonic() + 90
    # Prefect stores the words a moment after the state.
    while not (found := question(run)) or found.get("description", after) == after:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    fields = json.loads(found["schema"])["properties"].keys()
    assert fields == {"decision", "author", "comment", "rows", "whole_set"}
    return found["description"]


def answer(run: str, **fields) -> str:
    with services.client() as server:
        reply = server.post(f"flow_runs/{run}/resume", json={"run_input": fields}).raise_for_status()
    return reply.json()["status"]


def ended(run: str) -> api.RunState:
    with services.client() as server:
        wait_until(lambda: api.state(server, run).final, 120)
        return api.state(server, run)


def test_a_person_decides_in_the_form_and_the_run_goes_on(machine, tmp_path):
    preset, until = write_preset(tmp_path), {"until": "dev1"}
    other = {"cold-start.seed": 5}
    edited_pipeline = load_pipeline(preset, variant=Variant(until="dev1"))
    rejected_pipeline = load_pipeline(preset, variant=Variant(other, until="dev1"))
    store = ArtifactStore.open()
    reviewed = prepared(edited_pipeline, store, tmp_path / "edited")
    bad = prepared(rejected_pipeline, store, tmp_path / "rejected")
    edited = api.submit("r1-full-pipeline", {"preset": preset, **until})
    rejected = api.submit("r1-full-pipeline", {"preset": preset, **until, "changes": other})

    words = asked(edited)
    assert reviewed.short in words
    assert f"{ROWS} rows" in words
    with services.client() as server:
        tables = server.post("artifacts/filter", json={"artifacts": {"type": {"any_": ["table"]}}}).json()
    assert len(json.loads(tables[0]["data"])) == 5
    assert api.active_run("r1-full-pipeline", {"preset": preset, **until}) == edited, "it is found again"

    assert answer(edited, decision="approve") == "REJECT", "the form asks for an author"
    faulty = '{"row": 3, "completion": ""}'
    assert answer(edited, decision="edit", author="Ann", rows=faulty) == "ACCEPT"
    asked(rejected)
    assert answer(rejected, decision="reject", author="Bob", comment="too terse") == "ACCEPT"
    assert "line 1: column completion must be a text" in asked(edited, after=words)
    assert newest(store, reviewed) is None

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"row": 3, "completion": " <think> new </think>"}\n{"row": 5, "remove": true}\n')
    assert answer(edited, decision="edit", author="Ann", comment="typo", rows=str(rows)) == "ACCEPT"

    end = ended(rejected)
    assert end.type == "FAILED"
    assert "cold-start was rejected by Bob" in end.message
    assert "too terse" in end.message
    assert store.get_ref(rejected_pipeline.ref_name("dev1")) is None
    assert newest(store, bad).review.author == "Bob"

    assert ended(edited).type == "COMPLETED"
    dev1 = store.manifest(store.get_ref(edited_pipeline.ref_name("dev1")).digest)
    used = dev1.parents["dataset"]
    assert used != reviewed
    assert store.manifest(used.digest).parents["reviewed"] == reviewed
    folder = store.fetch(used)
    assert count_rows(folder) == ROWS - 1
    assert [row["completion"] for row in rows_of(folder)][3] == " <think> new </think>"
    tree = lineage(store, dev1.ref, note).tree()
    assert "edited by Ann on 20" in tree
    assert "(1 changed, 0 added, 1 removed): typo" in tree
