"""The page of a run in progress: what it says, who gets in, and that model text stays text in a browser."""

import html
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from artifacts.store import ArtifactStore
from artifacts.tables import write_table
from flows import cli, live_page, paths, server_auth
from flows.graph import build_spec, key_of, load_pipeline
from flows.live_state import LiveRun
from flows.services import ServiceError
from tasks.job import Job
from tasks.job.spec import JobExit, JobSpec
from tasks.settings import REPOSITORY
from tasks.supervise.records import Heartbeat, write_json
from tasks.tables import METRICS, SAMPLES
from tests.flows.conftest import Publisher

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STRING = "r1:a string of this test"
HOSTILE = (
    "<script>document.title='broken'</script></script><img src=x onerror=\"document.title='broken'\">"
    "<!-- \u202egnp.exe \x00 null \u2028 </think> <answer> ]]> &lt;b&gt; </answer>"
)


def completion(text: str, verdict: str | None = "correct", **columns) -> dict:
    return {
        "problem_id": "p1", "sample_index": 0, "step": 2, "checkpoint": "c", "completion": text,
        "prompt": "A conversation. User: what is 1 + 1? Assistant:", "prompt_tokens": 4,
        "completion_tokens": 9, "finish_reason": "stop", "temperature": 1.0, "top_p": 1.0,
        "max_new_tokens": 80, "seed": 1, "engine": "e", "verdict": verdict, "reward": 2.0,
        "reward_accuracy": 1.0, "reward_format": 1.0,
    } | columns  # fmt: skip


@pytest.fixture
def pipeline(preset, store, tmp_path):
    """Problems and base are made; what comes next is R1-Zero."""
    made = load_pipeline(preset())
    publisher = Publisher(made, store, tmp_path / "drafts")
    for name in ("problems", "base"):
        publisher.make(name, made.node(name).stage, made.node(name).config)
    return made


@pytest.fixture
def at_work(pipeline, store) -> Job:
    """A job that makes R1-Zero, as far as its records tell: step 3 of 45, 30 s since its start."""
    node = pipeline.node("r1-zero")
    names = pipeline.feeds["r1-zero"].items()
    inputs = {name: store.get_ref(pipeline.ref_name(feed)) for name, feed in names}
    build = build_spec(node, inputs, pipeline.ref_name("r1-zero"))
    folder = paths.work_root() / "jobs" / "20260101-000000-000000-quick-r1-zero"
    folder.mkdir(parents=True)
    spec = JobSpec(work_root=paths.work_root(), preset=pipeline.name, builds=(build,))
    write_json(folder / "spec.json", spec.model_dump(mode="json"))
    Heartbeat(folder / "heartbeat").beat()
    job = Job("r1-zero", "rl-zero", {}, paths.work_root() / key_of(node, inputs))
    (job.state / "samples").mkdir(parents=True)
    (job.state / "evaluation_metrics").mkdir()
    job.progress(3, 45, "step 3", reward=1.25)
    write_json(job.folder / "seconds.json", {"seconds": 30.0})
    for step, rate in enumerate((0.1, 0.3, 0.2)):
        job.log(
            [
                {"step": step, "name": "pass_rate", "value": rate},
                {"step": step, "name": "reward", "value": rate},
            ]
        )
    write_table(job.state / "samples" / "000001.parquet", [completion("an older one", step=1)], SAMPLES)
    rows = [completion(" <think> so it is </think> <answer> 2 </answer>"), completion(HOSTILE, "wrong")]
    write_table(job.state / "samples" / "000002.parquet", rows, SAMPLES)
    return job


@contextmanager
def client(pipeline, **options):
    with live_page.served(LiveRun(pipeline, ArtifactStore.open()), STRING, 0) as url:
        options = {"auth": tuple(STRING.split(":"))} | options
        with httpx.Client(base_url=url, **options) as asks:
            yield asks


def titles(state: dict, what: str) -> list[str]:
    return [node["title"] for node in state["nodes"] if node["state"] == what]


def test_before_the_first_job_the_page_says_that_nothing_is_there(preset, store):
    state = LiveRun(load_pipeline(preset()), store).document()
    assert state["says"] == "Nothing is there yet: no job has begun."
    assert (state["working"], state["shown"], state["finished"]) == ([], None, False)
    assert {node["state"] for node in state["nodes"]} == {"waiting"}
    assert len(state["nodes"]) == 23


def test_the_node_at_work_its_step_the_time_left_curves_and_newest_completions(pipeline, at_work):
    with client(pipeline) as asks:
        state = asks.get("/state").json()
        assert state["says"] == "At work: R1-Zero."
        (work,) = state["working"]
        assert (work["title"], work["done"], work["total"]) == ("R1-Zero", 3, 45)
        assert (work["text"], work["left"]) == ("step 3, reward 1.25", "about 7 min left")
        assert titles(state, "at work") == ["R1-Zero"]
        assert titles(state, "made") == ["Problems", "Base"]
        drawn = asks.get("/curves.svg", params={"node": "r1-zero"})
        assert drawn.headers["content-type"].startswith("image/svg+xml")
        assert "Pass rate in training" in drawn.text
        first, second = asks.get("/samples", params={"node": "r1-zero"}).json()
    assert (first["question"], first["verdict"], first["step"]) == ("what is 1 + 1?", "correct", 2)
    assert (first["thinking"], first["text"]) == (" <think> so it is </think>", " <answer> 2 </answer>")
    assert (first["reward"], first["rewards"]) == (2.0, {"accuracy": 1.0, "format": 1.0})
    assert "\\u202e" in second["thinking"]
    assert "\\x00" in second["thinking"]


def test_new_lines_and_files_change_the_versions_and_a_half_written_line_is_no_fault(pipeline, at_work):
    run = LiveRun(pipeline, ArtifactStore.open())
    before = run.document()["shown"]
    rows = [{"step": 0, "name": "pass_at_1", "value": 0.5}]
    write_table(at_work.state / "evaluation_metrics" / "000000.parquet", rows, METRICS)
    evaluated = run.document()["shown"]
    assert evaluated["curves"] != before["curves"]
    assert evaluated["samples"] == before["samples"]
    with (at_work.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "name": "pass_r')
    assert "Held-out questions: pass@1" in run.curves("r1-zero")
    write_table(at_work.state / "samples" / "000003.parquet", [completion("new", step=3)], SAMPLES)
    assert run.document()["shown"]["samples"] != before["samples"]
    assert [sample["step"] for sample in run.samples("r1-zero")] == [3]


def test_a_step_that_is_made_again_after_a_kill_counts_once(pipeline, at_work):
    from flows.live_state import _metrics

    at_work.log([{"step": 1, "name": "pass_rate", "value": 0.4}])
    assert _metrics(at_work.folder)["pass_rate"] == [(0, 0.1), (1, 0.4), (2, 0.2)]


def test_a_job_that_died_is_not_at_work_and_one_that_failed_says_why(pipeline, at_work):
    run = LiveRun(pipeline, ArtifactStore.open())
    folder = next((paths.work_root() / "jobs").iterdir())
    long_ago = time.time() - 60
    os.utime(folder / "heartbeat", (long_ago, long_ago))
    assert run.document()["says"] == "No job is at work at this moment."
    JobExit(status="failed", reason="the reward is constant", node="r1-zero").write(folder / "exit.json")
    assert run.document()["says"] == "R1-Zero failed: the reward is constant"


def test_a_finished_run_says_so_and_leads_nowhere(built, store):
    with client(built) as asks:
        state = asks.get("/state").json()
        page = "".join(asks.get(path).text for path in ("/", "/live.js", "/live.css"))
    assert (state["says"], state["finished"], state["working"]) == ("The run is finished.", True, [])
    assert {node["state"] for node in state["nodes"]} == {"made"}
    assert not re.findall(r"https?://|//[a-z]+\.", page)
    assert "<a " not in page


def test_an_artifact_without_curves_or_completions_has_none(built):
    with client(built) as asks:
        assert asks.get("/curves.svg", params={"node": "r1-zero"}).status_code == 404
        assert asks.get("/samples", params={"node": "r1-zero"}).json() == []
        assert asks.get("/samples", params={"node": "no such node"}).json() == []
        assert asks.get("/samples", params={"node": "../../../etc"}).json() == []


@pytest.mark.parametrize(
    "path", ["/", "/live.js", "/live.css", "/state", "/samples?node=base", "/curves.svg?node=base"]
)
def test_nobody_gets_in_without_the_string(pipeline, path):
    with client(pipeline, auth=None) as asks:
        answer = asks.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
        for wrong in (("r1", "wrong"), ("", ""), ("R1", STRING[3:])):
            assert asks.get(path, auth=wrong).status_code == 401
        assert asks.get(path, auth=("r1", STRING[3:])).status_code in (200, 404)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example"])
def test_a_name_that_a_stranger_gave_this_address_is_refused(pipeline, host):
    with client(pipeline) as asks:
        assert asks.get("/state", headers={"Host": host}).status_code == 400


def test_every_answer_forbids_what_the_page_does_not_need(pipeline):
    with client(pipeline) as asks:
        for path in ("/", "/state", "/live.js", "/nowhere"):
            policy = asks.get(path).headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self';" in policy
            assert "unsafe" not in policy
        assert asks.post("/state").status_code == 405
        assert asks.get("/docs").status_code == asks.get("/openapi.json").status_code == 404


def test_it_listens_on_loopback_alone_and_a_taken_port_is_said(pipeline, store):
    with live_page.served(LiveRun(pipeline, store), STRING, 0) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        mine = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.laddr.port == port]
        assert set(mine) == {"127.0.0.1"}
        with (
            pytest.raises(ServiceError, match=f"port {port} of this machine is taken"),
            live_page.served(LiveRun(pipeline, store), STRING, port),
        ):
            pass


def test_the_string_is_that_of_the_installation_and_is_not_printed(pipeline, capsys):
    from flows.cli.report import live_page as shown

    with shown(pipeline, 0):
        said = capsys.readouterr().out
        url = re.search(r"http://\S+", said)[0]
        user, _, password = server_auth.secret_file().read_text().partition(":")
        assert httpx.get(f"{url}state", auth=(user, password)).status_code == 200
    assert password not in said
    assert "prefect-auth" in said
    assert server_auth.secret_file().stat().st_mode & 0o077 == 0


def seen_by_browser(url: str, folder) -> str:
    """The page as Chromium has it after a few seconds, with the string given."""
    user, _, password = STRING.partition(":")
    address = url.replace("http://", f"http://{user}:{password.replace(' ', '%20')}@")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", "--virtual-time-budget=12000", address,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")
def test_a_browser_shows_the_run_and_hostile_text_stays_text(pipeline, at_work, tmp_path):
    with live_page.served(LiveRun(pipeline, ArtifactStore.open()), STRING, 0) as url:
        page = seen_by_browser(url, tmp_path)
    assert f"<title>3/45 {pipeline.name}</title>" in page
    assert "At work: R1-Zero." in page
    assert page.count("<article>") + page.count('<article class="">') == 2
    assert page.count("<script") == 1
    assert "<img" not in page.replace('<img id="curves"', "")
    assert 'id="curves-part"' in page
    assert 'id="curves-part" hidden' not in page, "the figure was drawn and loaded"
    shown = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "<script>document.title='broken'</script></script><img src=x" in shown
    assert "\\u202egnp.exe \\x00 null \\u2028" in shown
    assert "accuracy 1.00" in shown


_QUICK = {
    "r1-zero.steps": 4,
    "r1-zero.evaluate_every": 2,
    "r1-zero.evaluate_problems": 1,
    "r1-zero.evaluate_samples": 2,
}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")
def test_a_run_without_a_server_is_seen_as_it_goes_on(preset, home, tmp_path):
    """`flows.local` makes R1-Zero; the page shows it meanwhile, and says at its end that it is done."""
    name = preset(_QUICK)
    command = [sys.executable, "-m", "flows.local", name, "--until", "r1-zero"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "R1_HOME": str(home)}
    from flows.experiments import Variant

    run = LiveRun(load_pipeline(name, variant=Variant(until="r1-zero")), ArtifactStore.open())
    said, pages, seen = [], [], None
    with (tmp_path / "out.txt").open("w") as out:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=out, stderr=out)
        try:
            with live_page.served(run, STRING, 0) as url:
                deadline = time.monotonic() + 400
                while process.poll() is None and time.monotonic() < deadline:
                    state = run.document()
                    said.append(state["says"])
                    seen = state["shown"]
                    if (
                        seen
                        and seen["node"] == "r1-zero"
                        and seen["curves"]
                        and seen["samples"]
                        and not pages
                    ):
                        pages.append(seen_by_browser(url, tmp_path))
                    time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, (tmp_path / "out.txt").read_text()
    assert "At work: R1-Zero." in said
    assert "Newest completions of R1-Zero" in pages[0]
    assert "Curves of R1-Zero" in pages[0]
    assert run.document()["says"] == "The run is finished."
    assert "Held-out questions: pass@1" in run.curves("r1-zero")
    assert run.samples("r1-zero")


def test_r1_report_says_where_the_report_lies_or_that_there_is_none(preset, store, tmp_path):
    name = preset()
    empty = CliRunner().invoke(cli.app, ["report", "--preset", name])
    assert empty.exit_code == 2
    assert "report" in empty.stderr
    pipeline = load_pipeline(name)
    pipeline.walk(Publisher(pipeline, store, tmp_path / "drafts"))
    said = CliRunner().invoke(cli.app, ["report", "--preset", name])
    assert said.exit_code == 0
    folder = store.fetch(store.resolve("report", pipeline.name))
    assert said.stdout.strip() == f"r1: report: {os.path.relpath(folder / 'report.html')}"
