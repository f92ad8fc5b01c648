import http.server
import io
import json
import threading

import httpx
import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from artifacts.refs import Ref
from flows import live
from flows.graph import load_pipeline
from flows.status import RunStatus, StatusRecord, record_path
from tasks.kinds import Kind

REF = Ref(kind=Kind.checkpoint, digest="ab" * 32)


def test_a_watcher_reads_what_was_written(home):
    assert RunStatus.read("run-1") is None
    record = StatusRecord("run-1", "tiny", ["base", "dev1", "dev2"])
    assert {node.state for node in RunStatus.read("run-1").nodes.values()} == {"waiting"}
    record.cached("base", "k1", REF)
    record.running("dev1", "k2")
    record.done("dev1", REF)
    record.running("dev2", "k3")
    record.failed("dev2", "dev2: loss is not a number")
    record.failed_run("dev2: loss is not a number")
    seen = RunStatus.read("run-1")
    assert seen == record.status
    assert [node.state for node in seen.nodes.values()] == ["cached", "done", "failed"]
    assert seen.nodes["dev1"].key == "k2"
    assert seen.nodes["dev1"].ended >= seen.nodes["dev1"].began > 0
    assert seen.reason == seen.nodes["dev2"].reason
    assert [path.name for path in record_path("run-1").parent.iterdir()] == ["run-1.json"]


def test_a_run_is_settled_once_all_is_there_or_a_reason_is_given(home):
    record = StatusRecord("run-3", "tiny", ["base", "dev1"])
    record.cached("base", "k1", REF)
    record.running("dev1", "k2")
    assert not record.status.settled
    record.done("dev1", REF)
    assert record.status.settled
    failing = StatusRecord("run-4", "tiny", ["base"])
    failing.failed_run("base: no such folder")
    assert failing.status.settled


def test_the_terminal_says_each_end_once(home):
    out = io.StringIO()
    console = Console(file=out, width=200)
    record = StatusRecord("run-1", "tiny", ["base", "dev1", "dev2"])
    with Progress(TextColumn("{task.fields[text]}"), console=console, disable=True) as bars:
        view = live._View(console, bars)
        record.cached("base", "k1", REF)
        record.running("dev1", "k2")
        view.update(RunStatus.read("run-1"))
        view.update(RunStatus.read("run-1"))
        record.done("dev1", REF)
        record.failed("dev2", "no [room] left")
        view.update(RunStatus.read("run-1"))
    lines = out.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["reused", "base"], ["made", "dev1"], ["failed", "dev2"]]
    assert lines[2].endswith("no [room] left")


def test_reused_nodes_are_counted_over_the_whole_graph(preset):
    names = list(load_pipeline(preset()).feeds)
    record = StatusRecord("run-2", "quick", names)
    for name in names[:5]:
        record.cached(name, "k", REF)
    assert live.count(record.status, {"cached"}) == 5
    assert len(record.status.nodes) == 23


@pytest.fixture
def runs_server(monkeypatch):
    """Answers with the state that is last in the list, and keeps what it was asked."""
    states, asked = ["RUNNING"], []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = json.dumps({"state": {"type": states[-1], "message": ""}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    yield states, asked
    server.shutdown()
    server.server_close()


def test_the_server_is_asked_seldom_and_at_once_when_the_record_is_settled(runs_server):
    states, asked = runs_server
    with httpx.Client() as client:
        server = live._Server("run-1", client)
        assert [server.final_state(at_once=False) for _ in range(5)] == [None] * 5
        assert asked == ["/api/flow_runs/run-1"]
        states.append("COMPLETED")
        assert server.final_state(at_once=False) is None
        assert server.final_state(at_once=True).type == "COMPLETED"
        assert len(asked) == 2


def test_a_server_that_stays_away_is_an_error_only_after_a_minute(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with httpx.Client() as client:
        server = live._Server("run-1", client)
        assert server.final_state(at_once=True) is None
        server.heard -= 61
        with pytest.raises(httpx.HTTPError):
            server.final_state(at_once=True)
