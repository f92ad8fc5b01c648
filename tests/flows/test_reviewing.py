"""Data sets that wait for a person: what a plan, a run without a server and the terminal make of them."""

import io
import json
import threading
from datetime import UTC, datetime

import pytest
from rich.console import Console
from typer.testing import CliRunner

from artifacts.refs import Ref
from flows import cli, live
from flows.experiments import Variant
from flows.graph import load_pipeline
from flows.live import RunView, WatchedRun
from flows.local_builder import LocalBuilder
from flows.plan import plan
from flows.register import _ENDS
from flows.review_key import ReviewKey, parsed_key
from flows.reviewing import NotReviewed, SetRejected, settled
from flows.stage_run import resolve_inputs
from tasks.presets import PresetError, available, read_preset
from tasks.review import Decision, Review, decide, newest
from tests.flows.conftest import Publisher

ASKED = {"review": {"nodes": ["cold-start", "mixture"], "rows": 3}}


@pytest.fixture
def built(preset, store, tmp_path):
    """A preset that asks for reviews, all of its nodes made as if they were approved."""
    pipeline = load_pipeline(preset(ASKED))
    pipeline.walk(Publisher(pipeline, store, tmp_path / "drafts"))
    return pipeline


@pytest.fixture
def cold_start(built, store) -> Ref:
    return store.get_ref(built.ref_name("cold-start"))


@pytest.fixture
def decides(store, tmp_path):
    def decide_on(ref, decision, comment="", rows=""):
        review = Review(decision=decision, author="Ann", comment=comment)
        return decide(store, ref, review, tmp_path / "reviews", rows)

    return decide_on


def rows_of(pipeline, store):
    return {row.node: row for row in plan(pipeline, store)}


def test_no_shipped_preset_asks_for_a_person():
    for name in available():
        assert read_preset(name).review.nodes == ()
    assert load_pipeline("tiny").wired.shape.review == frozenset()


@pytest.mark.parametrize("nodes", [["r1"], ["cold-start", "problems"], ["nothing"], ["evaluation"]])
def test_only_data_sets_can_be_reviewed(preset, nodes):
    with pytest.raises(PresetError, match=r"cannot be reviewed: name data sets|no node 'nothing'"):
        load_pipeline(preset({"review": {"nodes": nodes}}))


def test_a_review_can_be_asked_for_by_set_and_renames_nothing(preset):
    pipeline = load_pipeline(preset(), variant=Variant({"review.nodes": ["cold_start"]}))
    assert pipeline.wired.shape.review == {"cold-start"}
    assert pipeline.name == load_pipeline(preset()).name
    assert "cold-start is used after a person has reviewed it" in pipeline.wired.departures


def test_a_plan_waits_for_the_decision(built, store, cold_start, decides):
    rows = rows_of(built, store)
    assert rows["cold-start"].outcome == f"is {cold_start.short}, waits for its review"
    assert "waits for the review of cold-start" in rows["dev1"].outcome
    assert rows["r1-zero"].hit
    with pytest.raises(PresetError, match="dev1 needs cold-start, which waits for its review"):
        resolve_inputs(built, store, "dev1", {})

    decides(cold_start, Decision.reject, "terse")
    rows = rows_of(built, store)
    assert "rejected by Ann" in rows["cold-start"].outcome
    assert not rows["dev1"].hit
    with pytest.raises(PresetError, match="which rejected by Ann"):
        resolve_inputs(built, store, "dev1", {})

    decides(cold_start, Decision.approve)
    rows = rows_of(built, store)
    assert rows["dev1"].hit, "an approved set is the set itself: what was made from it is reused"
    assert "waits for the review of mixture" in rows["dev3"].outcome
    assert resolve_inputs(built, store, "dev1", {})["dataset"] == cold_start

    edited = decides(cold_start, Decision.edit, rows='{"row": 1, "completion": "x"}').result
    rows = rows_of(built, store)
    assert rows["cold-start"].ref == edited
    assert f"input dataset changed from {cold_start.short} to {edited.short}" in rows["dev1"].outcome


def test_author_and_time_change_no_key(built, store, cold_start, decides):
    rows = '{"row": 1, "completion": "x"}'
    decides(cold_start, Decision.edit, rows=rows)
    before = rows_of(built, store)["dev1"].key
    decides(cold_start, Decision.edit, "another comment", rows)
    assert rows_of(built, store)["dev1"].key == before


def test_the_name_of_the_node_stands_for_what_is_used(built, store, cold_start, decides):
    name = built.ref_name("cold-start")
    made = decides(cold_start, Decision.edit, rows='{"row": 1, "completion": "x"}')
    assert settled(store, "cold-start", name, cold_start) == made.result == store.get_ref(name)
    assert store.get_ref(f"{name}.review") == made.record


def test_without_a_server_the_decision_must_be_there(built, store, cold_start, decides):
    builder = LocalBuilder(built, store, print)
    with pytest.raises(
        NotReviewed, match=rf"waits for its review: decide with `r1 review {built.name}/cold-st"
    ):
        builder.review("cold-start", cold_start)
    decides(cold_start, Decision.reject, "terse")
    with pytest.raises(SetRejected, match=r"cold-start was rejected by Ann on .*: terse"):
        builder.review("cold-start", cold_start)
    decides(cold_start, Decision.approve)
    assert builder.review("cold-start", cold_start) == cold_start


def test_the_terminal_says_once_that_the_run_waits(built, store, cold_start, decides, monkeypatch):
    monkeypatch.setattr(live, "POLL_SECONDS", 0.02)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    out = io.StringIO()
    run = WatchedRun("run-1", None)
    monkeypatch.setattr(WatchedRun, "ask", lambda self: None)
    run.state = live.api.RunState("PAUSED", "", datetime.now(UTC))
    view = RunView(run, store, Console(file=out, width=200), None)
    timer = threading.Timer(0.3, lambda: decides(cold_start, Decision.approve))
    timer.start()
    assert view.review("cold-start", cold_start) == cold_start
    timer.join()
    waits, review = out.getvalue().splitlines()
    assert waits.split()[:2] == ["waits", "cold-start"]
    assert "http://127.0.0.1:9/runs/flow-run/run-1" in waits
    assert "approved by Ann" in review


def test_a_question_has_a_key_that_can_be_part_of_an_address():
    key = ReviewKey("cold-start", "ab" * 32, 3)
    assert parsed_key(str(key)) == key
    assert set(str(key)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert parsed_key("1") is None


def test_a_suspended_run_is_no_lost_machine():
    assert "prefect.flow-run.Suspended" in _ENDS


@pytest.fixture
def r1(store, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    return lambda *words: CliRunner().invoke(cli.app, ["review", *words])


def test_the_terminal_lists_shows_and_decides(r1, built, store, cold_start, preset, tmp_path):
    path = preset(ASKED)
    listed = r1("--preset", path)
    assert listed.exit_code == 0
    assert f"{built.name}/cold-start" in listed.stdout
    assert "waits for its review" in listed.stdout
    assert "no Prefect server answers" in listed.stderr
    shown = r1("cold-start", "--preset", path, "--count", "3")
    assert f"r1: dataset {cold_start.short}, 12 rows, not reviewed yet" in shown.stdout
    saved = tmp_path / "rows.jsonl"
    assert r1("cold-start", "--preset", path, "--save", str(saved)).exit_code == 0
    rows = [json.loads(line) for line in saved.read_text().splitlines()]
    rows[0]["completion"] = "better"
    saved.write_text("\n".join(map(json.dumps, rows)))
    done = r1("cold-start", "--preset", path, "--rows", str(saved), "--author", "Ann")
    assert done.exit_code == 0, done.stderr
    assert "edited by Ann on" in done.stdout
    assert "(1 changed, 0 added, 0 removed)" in done.stdout
    found = newest(store, cold_start)
    again = r1(found.result.digest, "--approve", "--author", "Bob")
    assert again.exit_code == 0, "the edited set stands for the set that was reviewed"
    assert newest(store, cold_start).result == cold_start


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--approve"], "say who decides: --author NAME"),
        (["--approve", "--reject", "x", "--author", "A"], "give one of --approve, --reject and --rows"),
        (["--rows", "nowhere.jsonl", "--author", "A"], "nowhere.jsonl is no file"),
        (["--approve", "--author", "x" * 101], "author: String should have at most 100 characters"),
    ],
)
def test_what_cannot_be_decided_is_one_line(r1, built, cold_start, words, reason):
    done = r1(cold_start.digest, *words)
    assert done.exit_code == 2
    assert reason in done.stderr.splitlines()[-1]


def test_model_text_in_the_list_of_rows_is_harmless(r1, store, cold_start, decides):
    edited = decides(cold_start, Decision.edit, rows='{"row": 0, "completion": "\\u001b[2J[red]x"}').result
    decides(edited, Decision.approve)
    shown = r1(f"{cold_start.digest}", "--count", "12")
    assert "\x1b" not in shown.stdout
