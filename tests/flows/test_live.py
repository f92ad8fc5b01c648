"""The terminal's view of a run, from a real store, progress records and a server that answers as told."""

import http.server
import io
import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import psutil
import pytest
from rich.console import Console

from artifacts.store import ArtifactStore
from flows import api, daemons, live, paths, services
from flows.graph import key_of, load_pipeline
from tasks.job import Progress
from tasks.supervise import trees
from tasks.supervise.records import write_json
from tests.flows.conftest import Publisher

pytestmark = pytest.mark.slow

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class RunsServer:
    """Answers with `answer`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: dict = {}
        self.asked: list[str] = []
        self.is_in("RUNNING", LONG_AGO)

    def is_in(self, state: str, started: datetime | None, message: str = "") -> None:
        began = started.isoformat() if started else None
        self.answer = {"state": {"type": state, "message": message}, "start_time": began}


@pytest.fixture
def server(monkeypatch):
    runs = RunsServer()

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            runs.asked.append(self.path)
            body = json.dumps(runs.answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{listening.server_port}/api")
    yield runs
    listening.shutdown()
    listening.server_close()


def lines(out: io.StringIO) -> list[list[str]]:
    return [line.split() for line in out.getvalue().splitlines()]


def watch(walk, store) -> tuple[live.Outcome, io.StringIO]:
    out = io.StringIO()
    return live.watch("run-1", walk, store, Console(file=out, width=200)), out


def test_every_node_that_was_there_before_the_run_is_reused(server, built, store):
    server.is_in("COMPLETED", datetime.now(UTC) + timedelta(seconds=1))
    outcome, out = watch(built.walk, store)
    assert [line[:2] for line in lines(out)] == [["reused", node] for node in built.feeds]
    assert (outcome.completed, outcome.nodes, outcome.reused) == (True, 23, 23)


def test_nodes_are_shown_as_they_are_published_and_the_one_that_fails_with_its_reason(
    server, preset, store, tmp_path, monkeypatch
):
    """A pipeline in a thread that finds the problems, makes the base and fails at R1-Zero."""
    monkeypatch.setattr(live, "_ASK_SECONDS", 0.1)
    monkeypatch.setattr(live, "POLL_SECONDS", 0.02)
    pipeline = load_pipeline(preset())
    publisher = Publisher(pipeline, ArtifactStore.open(), tmp_path / "drafts")

    def publish(name: str) -> None:
        node = pipeline.node(name)
        publisher.make(name, node.stage, node.config)

    def run_pipeline() -> None:
        publish("problems")
        time.sleep(0.2)
        server.is_in("RUNNING", datetime.now(UTC))
        time.sleep(0.2)
        publish("base")
        time.sleep(0.2)
        reason = "r1-zero: the loss is not a [number] (log: /x) (flow run rl)"
        message = f"Flow run encountered an exception: StageFailed: {reason}"
        server.is_in("FAILED", LONG_AGO, message)

    server.is_in("PENDING", None)
    thread = threading.Thread(target=run_pipeline)
    thread.start()
    outcome, out = watch(pipeline.walk, store)
    thread.join()
    assert [line[:2] for line in lines(out)] == [
        ["reused", "problems"], ["made", "base"], ["failed", "r1-zero"]
    ]  # fmt: skip
    assert out.getvalue().rstrip().endswith("r1-zero: the loss is not a [number] (log: /x) (flow run rl)")
    assert (outcome.completed, outcome.nodes, outcome.reused) == (False, 2, 1)
    assert outcome.state.reason.startswith("r1-zero: the loss")


def test_a_cancelled_run_fails_no_node(server, preset, store):
    server.is_in("CANCELLED", LONG_AGO, "cancelled")
    outcome, out = watch(load_pipeline(preset()).walk, store)
    assert out.getvalue() == ""
    assert (outcome.completed, outcome.nodes) == (False, 0)


def test_the_progress_record_of_the_node_at_work_is_shown(server, preset, store, monkeypatch):
    monkeypatch.setattr(live, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(live, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(live, "_ASK_SECONDS", 0.1)
    pipeline = load_pipeline(preset())
    folder = paths.work_root() / key_of(pipeline.node("problems"), {})
    folder.mkdir(parents=True)
    write_json(folder / "progress.json", vars(Progress("problems", 3, 7, "drawing", {"rate": 0.5})))
    threading.Timer(0.5, lambda: server.is_in("CRASHED", LONG_AGO)).start()
    _, out = watch(pipeline.walk, store)
    assert lines(out)[0] == ["problems", "3/7", "drawing", "rate", "0.5"]


def test_one_node_is_walked_to_with_what_feeds_it(preset):
    pipeline = load_pipeline(preset())
    made = []

    class Names:
        def make(self, node, stage, config, **inputs):
            made.append((node, inputs))
            return node

    student = pipeline.student
    pipeline.walk_to(Names(), f"{student}-distilled", dataset="given")
    assert made == [
        (f"{student}-base", {}),
        (f"{student}-distilled", {"checkpoint": f"{student}-base", "dataset": "given"}),
    ]


def test_a_run_at_work_is_asked_for_seldom_and_at_once_when_all_is_there(server):
    with services.client() as client:
        run = live.WatchedRun("run-1", client)
        for _ in range(5):
            run.ask()
        assert run.at_work
        assert server.asked == ["/api/flow_runs/run-1"]
        server.is_in("COMPLETED", LONG_AGO)
        run.ask()
        assert not run.state.final
        assert run.wait().type == "COMPLETED"
        assert len(server.asked) == 2


def test_a_server_that_stays_away_is_an_error_only_after_a_minute(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with services.client() as client:
        run = live.WatchedRun("run-1", client)
        run.ask()
        assert run.state is None
        run._heard -= 61
        with pytest.raises(httpx.HTTPError):
            run.ask()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Flow run encountered an exception: JobFailed: dev1: no room (log: /x)", "dev1: no room (log: /x)"),
        ("Flow run encountered an exception: PresetError: unknown node", "PresetError: unknown node"),
        ("no heartbeat: its machine is lost", "no heartbeat: its machine is lost"),
    ],
)
def test_a_reason_is_the_exceptions_own_words(message, reason):
    assert api.plain_reason(message) == reason


def start_workers() -> psutil.Process:
    return daemons.start("workers", ["tests.flows.sleeper"], dict(os.environ))


@pytest.fixture
def kept_up(home, monkeypatch):
    """`services.up` that starts a sleeping process as the workers; how often it was asked."""
    ups = []

    def up(say):
        ups.append(1)
        start_workers()

    monkeypatch.setattr(services, "up", up)
    monkeypatch.setattr(live, "_ASK_SECONDS", 0.1)
    monkeypatch.setattr(live, "POLL_SECONDS", 0.02)
    yield ups
    trees.end(daemons.marked(), 5)


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "SCHEDULED"])
def test_workers_that_are_killed_are_started_again_and_it_is_said(state, server, preset, store, kept_up):
    server.is_in(state, LONG_AGO if state == "RUNNING" else None)
    workers = start_workers()
    threading.Timer(0.3, workers.kill).start()

    def end_when_up():
        while not kept_up:
            time.sleep(0.02)
        server.is_in("CRASHED", LONG_AGO)

    threading.Thread(target=end_when_up, daemon=True).start()
    _, out = watch(load_pipeline(preset()).walk, store)
    assert len(kept_up) == 1
    assert daemons.running("workers") != workers
    assert "r1: the process of the workers was killed by SIGKILL" in out.getvalue()


def test_services_that_die_again_and_again_end_the_watching(server, preset, store, kept_up, monkeypatch):
    def up(say):
        kept_up.append(1)
        start_workers().kill()

    monkeypatch.setattr(services, "up", up)
    start_workers().kill()
    with pytest.raises(services.ServiceError, match=r"the services died 4 times: see .*, then `r1 run`"):
        watch(load_pipeline(preset()).walk, store)
    assert len(kept_up) == 3


def test_workers_that_were_stopped_on_purpose_stay_down(server, preset, store, kept_up):
    start_workers()
    assert services.down() >= 1
    threading.Timer(0.5, lambda: server.is_in("CRASHED", LONG_AGO)).start()
    watch(load_pipeline(preset()).walk, store)
    assert kept_up == []
