"""What `r1 up` and `r1 down` decide, on real processes and a real port; no Prefect server is started."""

import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
import typer
from typer.testing import CliRunner

from flows import daemons, paths, services
from flows.cli import app
from flows.cli.shared import one_line_errors
from tasks.supervise import trees
from tests.artifacts.test_faults import fill

SLEEP = ["tests.flows.sleeper"]


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    trees.end(daemons.marked(), 5)


@pytest.fixture
def someone(tmp_path, monkeypatch):
    """The port of a stranger's server that answers to `/api/health`."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "health").write_text("true")
    monkeypatch.chdir(tmp_path)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def start(name: str = "sleeper") -> psutil.Process:
    return daemons.start(name, SLEEP, dict(os.environ))


def test_the_address_is_the_environments_or_that_of_prefect_toml(monkeypatch, tmp_path):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert services.api_url() == "http://127.0.0.1:4200/api"
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example:4300/api/")
    assert services.api_url() == "http://prefect.example:4300/api"
    assert services.ui_url() == "http://prefect.example:4300"


def test_every_process_of_ours_keeps_to_its_folder_and_phones_nobody(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4311/api")
    environment = services.environment()
    assert environment["PREFECT_HOME"] == str(home / "prefect")
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4311/api"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"


def test_a_strangers_server_on_our_port_is_refused_with_another_port(someone, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    Path("prefect.toml").write_text(f'[api]\nurl = "http://127.0.0.1:{someone}/api"\n')
    with pytest.raises(services.ServiceError, match=r"another server answers at .*export PREFECT_API_URL="):
        services._server(print)


def test_a_server_that_the_environment_names_is_used_as_it_is(someone, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{someone}/api")
    process = start("server")
    process.kill()
    process.wait(5)
    assert daemons.died("server")
    assert services._server(print) is False
    assert daemons.marked() == []
    assert not daemons.died("server"), "it would be started again for ever beside that of others"


def test_a_remote_server_that_does_not_answer_is_not_replaced(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://192.0.2.1:1/api")
    monkeypatch.setattr(services, "_healthy", lambda: False)  # 192.0.2.1 answers nobody, after a long wait
    with pytest.raises(services.ServiceError, match=r"no Prefect server answers at http://192.0.2.1:1/api"):
        services._server(print)


@pytest.mark.parametrize(
    ("host", "open_to_all", "answer", "refusal"),
    [
        ("prefect.example", True, 200, "asks for no authentication"),
        ("prefect.example", False, 401, "refuses us: set PREFECT_API_AUTH_STRING"),
        ("prefect.example", False, 200, None),
        ("127.0.0.1", True, 200, None),
    ],
)
def test_a_server_of_others_is_used_where_it_is_closed_to_strangers(
    monkeypatch, host, open_to_all, answer, refusal
):
    url = f"http://{host}:4200/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "team:string")
    monkeypatch.setattr(services, "_is_open", lambda: open_to_all)
    asked = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["authorization"])
        return httpx.Response(answer)

    transport = httpx.MockTransport(respond)
    made = services.client()
    client = httpx.Client(base_url=made.base_url, headers=made.headers, transport=transport)
    monkeypatch.setattr(services, "client", lambda: client)
    if refusal:
        with pytest.raises(services.ServiceError, match=refusal) as refused:
            services._usable(url)
        assert "\n" not in str(refused.value)
    else:
        services._usable(url)
        assert asked == ["Basic dGVhbTpzdHJpbmc="]  # the user's own settings


def test_deployments_are_registered_again_when_their_definition_changes(tmp_path, monkeypatch):
    shutil.copy("prefect.yaml", tmp_path)
    shutil.copytree("flows", tmp_path / "flows")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    before = services._definitions()
    assert services._definitions() == before
    with Path("flows/stage_flows.py").open("a") as file:
        file.write("# changed\n")
    assert services._definitions() != before


def test_only_runs_of_dead_pipelines_are_ended():
    alone = {"state_type": "SCHEDULED", "state_name": "Scheduled", "parent_task_run_id": None}
    assert services._waits_for_a_worker(alone)
    assert not services._waits_for_a_worker(alone | {"parent_task_run_id": "a task of a pipeline"})
    assert not services._waits_for_a_worker(alone | {"state_type": "RUNNING"})
    waiting = alone | {"state_type": "PAUSED", "state_name": "Suspended"}
    assert services._waits_for_a_worker(waiting), "a person has not decided yet"
    assert not services._waits_for_a_worker(waiting | {"state_name": "Paused"})


def test_a_service_is_found_again_and_not_confused_with_another(home):
    assert daemons.running("sleeper") is None
    process = start()
    assert daemons.running("sleeper") == process
    record = home / "services" / "sleeper.json"
    document = json.loads(record.read_text())
    record.write_text(json.dumps(document | {"created": document["created"] - 100}))
    assert daemons.running("sleeper") is None  # its number now belongs to somebody else
    record.write_text(json.dumps(document))
    process.kill()
    process.wait(5)
    assert daemons.running("sleeper") is None


def test_down_ends_services_and_everything_below_them(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    family = [start("server"), start("workers")]
    deadline = time.monotonic() + 10
    while len(daemons.marked()) < 4:  # each has a child in a session of its own
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family += [child for process in family for child in process.children()]
    assert services.down() == 4
    assert not any(map(trees.is_alive, family))
    assert services.down() == 0


def test_another_folders_services_are_left_alone(monkeypatch, tmp_path):
    process = start()
    monkeypatch.setenv("R1_HOME", str(tmp_path / "other"))
    assert daemons.marked() == []
    assert services.down() == 0
    assert trees.is_alive(process)
    monkeypatch.setenv("R1_HOME", str(tmp_path / "home"))


def test_a_job_that_outlived_its_flow_is_no_flow_run(home):
    environment = {**os.environ, daemons.MARK: str(paths.home()), "PREFECT__FLOW_RUN_ID": "run-1"}
    job = subprocess.Popen([sys.executable, "-m", *SLEEP], env=environment)
    engine = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "-m", "prefect.engine"],
        env=environment | {"PREFECT__FLOW_RUN_ID": "run-2"},
    )
    try:
        deadline = time.monotonic() + 10
        while len(daemons.marked()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert daemons.live_flow_runs() == {"run-2"}
    finally:
        for process in (job, engine):
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL and said nothing"),
        ("raise SystemExit(3)", "ended with code 3 and said nothing"),
        ("raise SystemExit('╭─ Error ─╮\\n│ no such file │\\n╰────────╯')", "failed: no such file"),
        ("raise ValueError('two\\nlines are an error')", "failed: lines are an error"),
    ],
)
def test_a_command_that_fails_says_why_in_one_line(program, words, home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert services.why(services.command([sys.executable, "-c", program])) == words


def test_a_server_that_is_killed_while_it_starts_says_so(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    process = start("server")
    (home / "logs" / "server.log").write_text("\nCheck out the dashboard at http://127.0.0.1:4200\n")
    process.kill()
    with pytest.raises(services.ServiceError) as ended:
        services._wait_for_server()
    death = f"was killed by SIGKILL (log: {paths.log('server')})"
    assert str(ended.value) == f"the Prefect server {death}; `r1 run` starts it again"


def test_a_server_that_fails_says_its_last_words(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    daemons.start("server", ["tests.flows.no_such_module"], dict(os.environ))
    deadline = time.monotonic() + 20
    while daemons.running("server"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(
        services.ServiceError, match=r"ended with code 1: .*No module named .*no_such.*\(log: "
    ):
        services._wait_for_server()


def test_a_home_without_a_free_byte_is_one_sentence_and_starts_nothing(tmp_path, monkeypatch):
    home = tmp_path / "full"
    home.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(home)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        fill(home / "other")
        monkeypatch.setenv("R1_HOME", str(home))
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
        with pytest.raises(services.ServiceError, match=r"full is full: free some .*r1 run` goes on") as full:
            services.up(print)
        assert "\n" not in str(full.value)
        with pytest.raises(OSError, match="No space left"):
            start("server")
        assert daemons.marked() == [], "a service that was not recorded would never be found again"
        done = CliRunner().invoke(app, ["trust", "on"])
        assert done.exit_code == 2
        assert re.fullmatch(r"r1: the disk of .*/trust is full .*: free some space .*\n", done.stderr)
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


def test_a_server_that_is_too_busy_to_answer_is_asked_again(monkeypatch, home):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        monkeypatch.setattr(services, "client", lambda: httpx.Client(base_url=url, timeout=0.2))
        assert not services._pools_there()


def test_a_server_that_does_not_answer_is_one_line(monkeypatch, home, capsys):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with pytest.raises(typer.Exit) as ended, one_line_errors():
        httpx.get("http://127.0.0.1:1/api/health")
    assert ended.value.exit_code == 2
    said = r"r1: the Prefect server at http://127.0.0.1:1/api does not answer \(.*refused\): `r1 up` .*\n"
    assert re.fullmatch(said, capsys.readouterr().err)
