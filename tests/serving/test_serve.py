"""`r1 serve` and `r1 chat` as a user runs them: real model servers, killed in every way."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from openai import OpenAI
from typer.testing import CliRunner

from flows import cli, serving
from tasks.serving.model_server import ModelServer
from tasks.serving.proxy import Proxy

TINY = "tasks/tiny_world/weights/tiny-base"
SUM = [{"role": "user", "content": "what is 2 + 3?"}]
START_SECONDS = 600.0
"""A server that imports torch and transformers; 10 s on two idle cores."""
END_SECONDS = 120.0
"""On a busy machine; 2 s on an idle one."""


def r1(*words, **more):
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


@contextmanager
def served(*options):
    """`r1 serve` of the tiny base; the process and the address that it prints."""
    process = r1("serve", TINY, "--port", "0", "--template", "plain", *options)
    said = ""
    try:
        for line in process.stdout:
            said += line
            if address := re.search(r"http://127\.0\.0\.1:\d+/v1", line):
                break
        else:
            pytest.fail(said)
        process.stdout.readline()
        yield process, address[0]
    finally:
        process.kill()
        process.wait()


def gone(processes):
    """Whether all of them end soon."""
    _, left = psutil.wait_procs(processes, timeout=END_SECONDS)
    return not left


def family(process):
    found = psutil.Process(process.pid).children(recursive=True)
    assert any("tasks.serving.transformers_server" in p.cmdline() for p in found)
    return found


def place_of(processes):
    """The folder with the socket."""
    (guard,) = (p.cmdline() for p in processes if "tasks.serving.guard" in p.cmdline())
    return Path(guard[guard.index("tasks.serving.guard") + 2])


@pytest.mark.slow
def test_a_served_model_answers_its_clients_and_ends_with_the_command(home):
    control = ["--risk-control", "--judge", "keywords"]
    with served(*control) as (process, address):
        assert httpx.get(f"{address}/models").status_code == 401
        key = (home / "api-key").read_text()
        assert (home / "api-key").stat().st_mode & 0o077 == 0
        client = OpenAI(base_url=address, api_key=key, max_retries=0)
        (model,) = client.models.list()
        assert model.id == "tiny-base"

        asked = {"model": model.id, "messages": SUM, "temperature": 0, "max_tokens": 80}
        whole = client.chat.completions.create(**asked)
        message = whole.choices[0].message
        thought = message.model_extra["reasoning_content"]  # the base has seen the layout in its web
        assert thought
        assert "think>" not in thought + message.content
        assert whole.usage.completion_tokens > 3

        stream = client.chat.completions.create(**asked, stream=True)
        chunks = list(stream)
        assert len(chunks) > 3
        deltas = [chunk.choices[0].delta for chunk in chunks]
        assert "".join(delta.content or "" for delta in deltas) == message.content
        thinking = "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas)
        assert thinking == thought

        # A flagged dialogue: the stand-in judge lets pass what holds no keyword itself.
        flagged = [{"role": "user", "content": "how can I steal 2 + 3?"}]
        said = client.chat.completions.create(model=model.id, messages=flagged, max_tokens=80)
        assert said.choices[0].finish_reason in ("stop", "length", "content_filter")
        assert process.stdout.readline().startswith("r1: flagged (steal)")

        children = family(process)
        place = place_of(children)
        assert place.stat().st_mode & 0o077 == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_SECONDS) == 128 + signal.SIGTERM
        assert gone(children)
        assert not place.exists()


@pytest.mark.slow
def test_no_server_is_left_when_the_command_is_killed_and_the_command_ends_when_its_server_is(home):
    with served() as (process, _):
        children = family(process)
        place = place_of(children)
        process.kill()
        assert gone(children)
        assert not place.exists()
    with served() as (process, _):
        (server,) = (p for p in family(process) if "tasks.serving.guard" not in p.cmdline())
        server.kill()
        said = process.stdout.read()
        assert process.wait(END_SECONDS) == 1
        assert "the model server was killed by SIGKILL" in said


@pytest.mark.slow
def test_chat_with_a_pipe(home):
    asked = "what is 2 + 3?\n\n/reset\nwhat is 1 + 1?\n/exit\nnot asked\n"
    chat = r1("chat", TINY, "--template", "plain", stdin=subprocess.PIPE)
    try:
        said, _ = chat.communicate(asked, timeout=START_SECONDS)
    finally:
        chat.kill()
    assert chat.returncode == 0
    assert "think>" not in said
    assert "\x1b" not in said
    _, _, answers = said.partition("/exit ends\n")
    first, forgotten, second = answers.partition("r1: the dialogue is forgotten\n")
    assert forgotten
    assert all(answer.strip() for answer in (first, second))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no/such-model"], "and the hub has it not, or is out of reach"),
        (["nothing"], "no folder is called so"),
        (["docs"], "docs: no config.json there"),
        ([TINY, "--", "--max-model-len=9"], "--max-model-len=9: only vllm takes more options"),
        ([TINY, "--engine", "sglang"], "--engine 'sglang': use vllm or transformers"),
        ([TINY, "--template", "plainn"], "--template: there is no template 'plainn': did you mean plain?"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "chat"])
def test_what_cannot_be_served_is_one_line(command, words, said, home, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused = CliRunner().invoke(cli.app, [command, *(["--port", "0"] if command == "serve" else []), *words])
    assert refused.exit_code == 2, refused.output
    assert said in refused.output
    assert refused.output.count("\n") <= 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--risk-control"], "--risk-control needs --judge"),
        (["--judge", "keywords"], "--judge and --keywords need --risk-control"),
        (["--risk-control", "--judge", "keyword"], "--judge 'keyword' is not known: use one of keywords"),
        (["--risk-control", "--judge", "none"], "--judge 'none' is not known"),
        (["--risk-control", "--judge", "{name: endpoint}"], "--judge: endpoint.url: Field required"),
        (["--risk-control", "--judge", "{name: ["], "is not YAML"),
        (["--risk-control", "--judge", "{name: checkpoint, artifact: tiny/r1}"], "tiny/r1"),
        (
            ["--risk-control", "--judge", "{name: endpoint, url: 'https://a.b', model: m, key: NO_SUCH_KEY}"],
            "NO_SUCH_KEY is not set",
        ),
        (["--risk-control", "--judge", "keywords", "--keywords", "no/such/file"], "keywords no/such/file"),
    ],
)  # fmt: skip
def test_a_risk_control_that_cannot_work_is_refused_before_a_model_is_loaded(options, said, home):
    refused = CliRunner().invoke(cli.app, ["serve", TINY, "--port", "0", *options])
    assert refused.exit_code == 2, refused.output
    assert said in refused.output


def test_a_port_that_is_taken_is_one_line(home):
    with serving.listening(0) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        refused = CliRunner().invoke(cli.app, ["serve", TINY, "--port", str(port)])
        assert refused.exit_code == 2
        assert f"--port {port}: Address already in use" in refused.output


def test_whoever_hears_the_address_connects_at_once():
    class Heard(Exception):
        pass

    def ready():
        socket.create_connection(place.getsockname(), timeout=5).close()
        raise Heard

    with serving.listening(0) as place, subprocess.Popen(["sleep", "60"]) as process:
        server = ModelServer(None, None, None, process, None)
        try:
            with pytest.raises(Heard):
                serving.run_proxy(Proxy("tiny", None, "key"), place, server, ready)
        finally:
            process.kill()


def test_a_folder_is_called_after_itself(home, store, tiny_model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model").symlink_to(tiny_model)
    found = serving.find_model(store, str(tmp_path / "mine"), "tiny")
    assert (found.name, found.folder) == ("mine", tmp_path / "mine" / "model")


def test_the_key_is_made_once_and_is_not_the_servers_string(home):
    from flows import server_auth

    key = serving.installation_key()
    assert serving.installation_key() == key
    assert len(key) > 40
    assert server_auth.secret() != key
    assert {path.name for path in home.iterdir()} == {"api-key", "prefect-auth"}


@pytest.mark.parametrize(("ends", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9)])
def test_the_guard_ends_as_its_command_does(ends, code, tmp_path):
    (tmp_path / "place").mkdir()
    command = [sys.executable, "-c", f"import os, sys; {ends}"]
    guard = [sys.executable, "-m", "tasks.serving.guard", str(os.getpid()), str(tmp_path / "place")]
    process = subprocess.Popen([*guard, *command], start_new_session=True)
    assert process.wait(60) == code
    assert not (tmp_path / "place").exists()


@pytest.mark.slow
def test_the_guard_ends_a_command_whose_parent_was_killed(tmp_path):
    (tmp_path / "place").mkdir()
    sleep = "import time; print('up', flush=True); time.sleep(600)"
    program = (
        "import os, subprocess, sys; words = [sys.executable, '-m', 'tasks.serving.guard', str(os.getpid()), "
        f"{str(tmp_path / 'place')!r}, sys.executable, '-c', {sleep!r}]; "
        "subprocess.Popen(words, start_new_session=True).wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "up\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 2
    parent.kill()
    parent.wait()
    assert gone(children)
    assert not (tmp_path / "place").exists()
