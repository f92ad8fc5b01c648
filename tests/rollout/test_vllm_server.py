"""The server's clients against an HTTP server that speaks vLLM's OpenAI interface."""

import subprocess
import sys
import threading
import time

import pytest

from tasks.job import LOST, ServiceLost
from tasks.rollout import server as module
from tasks.rollout.engine import EngineUnavailable, open_engine
from tasks.rollout.server import Server, ServerWatch
from tasks.rollout.settings import EngineSettings, Sampling
from tests.rollout.fake_vllm import running, start, stop


@pytest.fixture
def fake(tiny_model):
    with running(str(tiny_model)) as server:
        yield server


def engine_at(url, model):
    return open_engine(EngineSettings(name="vllm-server", server_url=url), model)


def test_completions_come_back_in_order_with_their_seeds(fake, tiny_model):
    engine = engine_at(fake.url + "/", tiny_model)
    found = engine.generate([f"p{i}" for i in range(300)], Sampling(max_new_tokens=7), list(range(300)))
    assert [c.text for c in found] == [f"p{i} {i}" for i in range(300)]
    assert {(c.finish_reason, c.completion_tokens, c.prompt_tokens) for c in found} == {("length", 7, 3)}
    assert engine.name == "vllm-server 0.31.0"


def test_a_refused_request_shows_the_servers_reason(fake, tiny_model):
    with pytest.raises(RuntimeError, match=r"answered 400: .*prompt too long"):
        engine_at(fake.url, tiny_model).generate(["bad"], Sampling(max_new_tokens=7), 0)


def test_another_model_is_refused_where_the_server_takes_no_weights(fake, tmp_path):
    with pytest.raises(EngineUnavailable, match="serves another model: restart it"):
        engine_at(fake.url, tmp_path)


def test_a_server_that_takes_weights_is_not_believed_to_hold_its_folders(fake, tiny_model):
    fake.takes_weights = True
    with pytest.raises(EngineUnavailable, match="may hold any, and they are pushed from a GPU"):
        engine_at(fake.url, tiny_model)


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:9"])
def test_no_server_is_one_sentence(address, tiny_model):
    with pytest.raises(EngineUnavailable, match="server") as caught:
        engine_at(address, tiny_model)
    assert "\n" not in str(caught.value)


def test_a_server_that_comes_back_is_asked_again(tiny_model):
    first = start(str(tiny_model), vanish_after=40)
    engine, later = engine_at(first.url, tiny_model), []

    def come_back():
        while Server(first.url).is_up():
            time.sleep(0.02)
        time.sleep(0.5)
        later.append(start(str(tiny_model), instance="b", port=first.server_port))

    thread = threading.Thread(target=come_back)
    thread.start()
    found = engine.generate([f"p{i}" for i in range(100)], Sampling(max_new_tokens=7), list(range(100)))
    thread.join()
    assert [c.text for c in found] == [f"p{i} {i}" for i in range(100)]
    assert (first.completed > 40, later[0].completed) == (True, 100)
    stop(later[0])


def test_a_server_that_stays_away_is_one_sentence(tiny_model, monkeypatch):
    monkeypatch.setattr(module.Server.wait, "__defaults__", (0.5,))
    engine = engine_at(start(str(tiny_model), vanish_after=1).url, tiny_model)
    with pytest.raises(EngineUnavailable, match=r"vanished and did not come back within 0 s: start it"):
        engine.generate(["a", "b", "c"], Sampling(max_new_tokens=7), 0)


def test_a_watched_server_that_stays_is_no_news(fake, tmp_path):
    with ServerWatch(fake.url, tmp_path / "lost").watching():
        pass
    with pytest.raises(KeyError), ServerWatch(fake.url, tmp_path / "lost").watching():
        raise KeyError("something else")
    assert not (tmp_path / "lost").exists()


def test_a_restart_is_a_loss_although_it_answers(fake, tmp_path):
    watch = ServerWatch(fake.url, tmp_path / "lost")
    with pytest.raises(ServiceLost, match="was restarted and lost the policy's weights"), watch.watching():
        fake.instance = "b"
    assert "was restarted" in (tmp_path / "lost").read_text()


def test_an_error_beside_a_vanished_server_is_its_loss(tiny_model, tmp_path):
    server = start(str(tiny_model))
    watch = ServerWatch(server.url, tmp_path / "lost")
    stop(server)
    with pytest.raises(ServiceLost, match="vanished") as caught, watch.watching():
        raise ConnectionError("broken pipe")
    assert isinstance(caught.value.__cause__, ConnectionError)


HANGS = """
import sys, time
from pathlib import Path
from tasks.rollout import server
server._LOOK_EVERY, server._SILENCE_SECONDS = 0.1, 0.5
with server.ServerWatch(sys.argv[1], Path(sys.argv[2])).watching():
    print("hangs", flush=True)
    time.sleep(60)
"""


def test_a_process_that_hangs_on_a_vanished_server_ends_as_lost(tiny_model, tmp_path):
    server = start(str(tiny_model))
    command = [sys.executable, "-c", HANGS, server.url, str(tmp_path / "lost")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "hangs\n"
    stop(server)
    assert process.wait(20) == LOST
    assert "vanished" in (tmp_path / "lost").read_text()
