"""Who gets in: a real server and workers, a browser on another origin, another user id, a typed command.

One server serves all tests. CI needs root (to take another user id) and Debian's package `chromium`.
"""

from __future__ import annotations

import http.server
import json
import os
import queue
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from flows import server_auth
from flows.pools import POOLS
from tasks.presets import REPOSITORY
from tasks.supervise import trees

pytestmark = pytest.mark.slow

NOBODY = 65534
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Installation:
    """A folder of its own with the services of `r1 up`."""

    home: Path
    url: str
    said: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """Of a user's shell: nothing of the authentication in it."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "R1_"))}
        del plain["PATH"]
        return plain | {
            "PATH": os.environ["PATH"],
            "R1_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
        }

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`python -m WORDS`, typed in the repository's folder."""
        command = [sys.executable, "-m", *words]
        return subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=300
        )

    def client(self) -> httpx.Client:
        """Asks the server as its user."""
        import base64

        string = (self.home / "prefect-auth").read_text()
        basic = base64.b64encode(string.encode()).decode()
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Basic {basic}"}, timeout=30)


@pytest.fixture(scope="session")
def ours():
    folder = Path(tempfile.mkdtemp(prefix="r1-access-"))
    folder.chmod(0o755)  # not pytest's own, into which another user cannot look anyway
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    installation = Installation(folder / "home", f"http://127.0.0.1:{port}/api")
    up = installation.python("flows.cli", "up")
    assert up.returncode == 0, up.stdout + up.stderr
    installation.said = up.stdout
    yield installation
    installation.python("flows.cli", "down")
    shutil.rmtree(folder)


def test_up_says_where_the_string_is_and_not_the_string(ours):
    string = (ours.home / "prefect-auth").read_text()
    assert re.fullmatch(r"r1:\S{40,}", string)
    assert "ask once for the string that is in" in ours.said
    assert "prefect-auth" in ours.said
    written = {path.name: path.read_text(errors="replace") for path in (ours.home / "logs").iterdir()}
    assert {"server.log", "workers.log"} <= written.keys()
    assert [name for name, text in written.items() if string in text] == []
    assert string not in ours.said


def test_everything_under_the_folder_is_its_users_own(ours):
    assert stat.S_IMODE(ours.home.stat().st_mode) == 0o700
    files = [path for path in ours.home.rglob("*") if path.is_file()]
    assert {"prefect.db", "server.log", "prefect-auth"} <= {path.name for path in files}
    assert [str(path) for path in files if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("path", ["flow_runs/filter", "deployments/filter", "work_pools/filter"])
def test_without_the_string_nothing_is_answered(ours, path):
    assert httpx.post(f"{ours.url}/{path}", json={}).status_code == 401
    assert httpx.post(f"{ours.url}/{path}", json={}, auth=("r1", "guess")).status_code == 401
    with ours.client() as client:
        assert client.post(path, json={}).status_code == 200


def test_events_cannot_be_sent_or_heard_without_the_string(ours):
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    address = ours.url.replace("http://", "ws://")
    for path in ("events/in", "events/out", "logs/out"):
        with pytest.raises(WebSocketException):
            connect(f"{address}/{path}")
        with connect(f"{address}/{path}", subprotocols=["prefect"]) as socket_:
            socket_.send(json.dumps({"type": "auth", "token": "guess"}))
            with pytest.raises(WebSocketException):
                socket_.recv(timeout=10)  # closed without a word


_AS_NOBODY = f"""
import encodings.idna, http.client, json, os, sys  # loaded while the files can be read
from pathlib import Path
home, server, host, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})

def reads(path):
    try:
        return bool(Path(path).read_bytes())
    except PermissionError:
        return "refused"

def asks(method, path, body=None):
    connection = http.client.HTTPConnection(host, port, timeout=20)
    connection.request(method, path, body, {{"Content-Type": "application/json"}})
    return connection.getresponse().status

print(json.dumps({{
    "string": reads(home / "prefect-auth"),
    "database": reads(home / "prefect" / "prefect.db"),
    "log": reads(home / "logs" / "server.log"),
    "environment": reads(f"/proc/{{server}}/environ"),
    "health": asks("GET", "/api/health"),
    "runs": asks("POST", "/api/flow_runs/filter", "{{}}"),
    "deployment": asks("GET", "/api/deployments/name/problems/problems"),
}}))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take another user id")
def test_another_user_id_gets_nothing(ours):
    ours.home.chmod(0o755)  # each file is closed by itself
    try:
        port = ours.url.rpartition(":")[2].removesuffix("/api")
        record = json.loads((ours.home / "services" / "prefect.json").read_text())
        arguments = [str(ours.home), str(record["pid"]), "127.0.0.1", port]
        done = subprocess.run([sys.executable, "-c", _AS_NOBODY, *arguments], capture_output=True, text=True)
    finally:
        ours.home.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "string": "refused", "database": "refused", "log": "refused", "environment": "refused",
        "health": 200, "runs": 401, "deployment": 401,
    }  # fmt: skip


_PAGE = """<html><body><script>
const api = "API";
async function tried(path, options) {
  try { const r = await fetch(path, options); return r.type + " " + r.status; }
  catch (error) { return error.name; }
}
function socket(path) {
  return new Promise(done => {
    const s = new WebSocket(api.replace("http", "ws") + path);
    s.onopen = () => done("open"); s.onerror = () => done("closed");
  });
}
(async () => {
  const json = {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"};
  const result = {
    control: await tried("/control"),
    health: await tried(api + "/health"),
    runs: await tried(api + "/flow_runs/filter", json),
    blind: await tried(api + "/flow_runs/", {method: "POST", mode: "no-cors", body: "{}"}),
    events: await socket("/events/in"),
  };
  await fetch("/result", {method: "POST", body: JSON.stringify(result)});
})();
</script></body></html>"""


@pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")
def test_a_page_of_another_origin_gets_nothing(ours, tmp_path):
    results: queue.Queue[dict[str, str]] = queue.Queue()
    page = _PAGE.replace("API", ours.url).encode()

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def do_POST(self):
            results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    before = len(runs(ours))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}",
            f"http://127.0.0.1:{server.server_port}/",
        ]  # fmt: skip
        browser = trees.start_session(command, os.environ, tmp_path / "browser.log")
        try:
            found = results.get(timeout=90)
        finally:
            trees.stop(browser, seconds=5)
            server.shutdown()
    assert found == {
        "control": "basic 200",  # the browser works
        "health": "TypeError",  # answered to everybody, but not readable from another origin
        "runs": "TypeError",
        "blind": "opaque 0",  # a browser sends it without asking
        "events": "closed",
    }
    assert len(runs(ours)) == before


def test_its_own_pages_may_ask(ours):
    def allowed(origin: str) -> str | None:
        return httpx.get(f"{ours.url}/health", headers={"Origin": origin}).headers.get(
            "access-control-allow-origin"
        )

    assert allowed(ours.url.removesuffix("/api")) == ours.url.removesuffix("/api")
    assert allowed("http://127.0.0.1:1") is None
    assert allowed("null") is None


def test_a_typed_command_works_without_setting_anything(ours):
    """Through a worker and a job."""
    done = ours.python(
        "prefect", "deployment", "run", "problems", "--param", "preset=tiny", "--watch"
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished successfully" in " ".join(done.stdout.split())
    (job,) = (ours.home / "work" / "jobs").iterdir()
    assert json.loads((job / "exit.json").read_text())["status"] == "ok"


@pytest.mark.parametrize(
    "variables", [{"command": "touch planted"}, {"env": {"A": "b"}}, {"working_dir": "/"}]
)
def test_a_run_that_names_a_command_a_variable_or_a_folder_is_refused(ours, variables):
    with ours.client() as client:
        deployment = client.get("deployments/name/problems/problems").raise_for_status().json()["id"]
        path = f"deployments/{deployment}/create_flow_run"
        answer = client.post(path, json={"job_variables": variables})
    assert answer.status_code == 422
    assert "Additional properties are not allowed" in answer.text


def test_a_job_variable_on_the_command_line_is_refused(ours):
    before = len(runs(ours))
    done = ours.python("prefect", "deployment", "run", "problems", "--job-variable", "command=touch planted")
    assert done.returncode != 0
    assert len(runs(ours)) == before
    time.sleep(3)
    assert not (REPOSITORY / "planted").exists()


def runs(ours: Installation) -> list:
    with ours.client() as client:
        return client.post("flow_runs/filter", json={}).raise_for_status().json()


def test_the_string_is_given_to_no_other_server(ours, monkeypatch):
    monkeypatch.setenv("R1_HOME", str(ours.home))
    assert server_auth.own_string(ours.url) == (ours.home / "prefect-auth").read_text()
    assert server_auth.own_string("http://127.0.0.1:1/api") is None
    assert server_auth.headers("http://127.0.0.1:1/api", {}) == {}
    theirs = server_auth.headers("http://prefect.example/api", {"PREFECT_API_AUTH_STRING": "a:b"})
    assert theirs == {"Authorization": "Basic YTpi"}
    record = ours.home / "services" / "prefect.json"
    document = record.read_text()
    record.write_text(json.dumps(json.loads(document) | {"created": 1.0}))
    try:
        assert server_auth.own_string(ours.url) is None  # the server is down, somebody else may listen there
    finally:
        record.write_text(document)


def test_limits_that_a_person_set_outlive_another_registration(ours):
    set_limit = ours.python("prefect", "work-pool", "set-concurrency-limit", "gpu-train", "4")
    assert set_limit.returncode == 0, set_limit.stderr
    cleared = ours.python("prefect", "work-pool", "clear-concurrency-limit", "gpu-rollout")
    assert cleared.returncode == 0, cleared.stderr
    again = ours.python("flows.register")
    assert again.returncode == 0, again.stderr
    with ours.client() as client:
        limits = {name: client.get(f"work_pools/{name}").json()["concurrency_limit"] for name in POOLS}
    assert limits == {"cpu": None, "gpu-train": 4, "gpu-rollout": None}


def test_killed_workers_are_found_dead_and_started_again(ours):
    record = ours.home / "services" / "workers.json"
    before = json.loads(record.read_text())["pid"]
    os.kill(before, signal.SIGKILL)
    revive = "from flows import services; print(services.revive(print), services.revive(print))"
    done = subprocess.run(
        [sys.executable, "-c", revive], cwd=REPOSITORY, env=ours.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "the process of the workers ended" in done.stdout
    assert done.stdout.splitlines()[-1] == "True False"
    after = psutil.Process(json.loads(record.read_text())["pid"])
    assert after.pid != before
    assert trees.is_alive(after)
