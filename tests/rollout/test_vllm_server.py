"""The server's clients against an HTTP server that speaks vLLM's OpenAI interface."""

import subprocess
import sys
import threading
import time

import pytest

from tasks.job import LOST, ServiceLost
from tasks.rollout import server as module
from tasks.rollout.engine import EngineUnavailable, SampledModel, generate_rows
from tasks.rollout.engines import open_engine, vllm_server
from tasks.rollout.server import Server, ServerWatch
from tasks.rollout.settings import EngineSettings, Sampling
from tests.rollout.fake_vllm import running, start, stop, written

SEVEN = Sampling(max_new_tokens=7)


@pytest.fixture
def fake(tiny_model):
    with running(str(tiny_model)) as server:
        yield server


def engine_at(url, folder, **rl):
    settings = EngineSettings(name="vllm-server", server_url=url)
    return open_engine(settings, SampledModel(folder, frozenset([1]), **rl))


def rows(engine, count, **kwargs):
    """Row i has the prompt [9, i] and the seed i."""
    return generate_rows(engine, [[9, i] for i in range(count)], SEVEN, list(range(count)), **kwargs)


def expected(count):
    return [written([9, i], i, 7) for i in range(count)]


def test_completions_come_back_with_their_places_and_seeds(fake, tiny_model):
    engine = engine_at(fake.url + "/", tiny_model)
    assert [c.tokens for c in rows(engine, 300)] == expected(300)
    group = list(engine.generate([[9, 3]], SEVEN, [[5, 6, 7]]))
    assert sorted((c.prompt, c.sample, c.tokens[1]) for c in group) == [(0, 0, 5), (0, 1, 6), (0, 2, 7)]
    assert {c.finish_reason for c in group} == {"stop", "length"}
    assert all(c.logprobs is None for c in group)
    (scored,) = engine.generate([[9, 3]], SEVEN, [[5]], logprobs=True)
    assert scored.logprobs == [-0.5] * 7
    assert engine.name == "vllm-server 0.31.0"


def test_completions_are_told_while_others_are_still_written(fake, tiny_model):
    seen = []
    rows(engine_at(fake.url, tiny_model, lost_note=tiny_model / "lost"), 600,
         finished=lambda row, _: seen.append(fake.completed))  # fmt: skip
    assert seen[0] < 600


def test_a_refused_request_shows_the_servers_reason(fake, tiny_model):
    with pytest.raises(RuntimeError, match=r"answered 400: .*prompt too long"):
        list(engine_at(fake.url, tiny_model).generate([[666]], SEVEN, [[0]]))


def test_another_model_is_refused_where_the_server_takes_no_weights(fake, tmp_path):
    with pytest.raises(EngineUnavailable, match="serves another model: restart it"):
        engine_at(fake.url, tmp_path)


def test_a_server_that_takes_weights_reads_the_folder_where_no_gpu_pushes_them(fake, tiny_model):
    """It is not believed to hold the folder's weights, although it was started with that folder."""
    fake.takes_weights = True
    engine = engine_at(fake.url, tiny_model)
    read = {"method": "reload_weights", "kwargs": {"weights_path": str(tiny_model)}}
    assert fake.calls == [("/collective_rpc", read), ("/reset_prefix_cache", {})]
    fake.instance = "b"  # it restarts, with the weights of its start
    assert [c.tokens for c in rows(engine, 3)] == expected(3)
    assert fake.calls[2:] == fake.calls[:2]


def test_a_server_whose_restart_could_not_be_told_is_refused(fake, tiny_model, tmp_path):
    fake.api_processes = 2
    assert [c.tokens for c in rows(engine_at(fake.url, tiny_model), 3)] == expected(3)  # holds its own model
    fake.takes_weights = True
    for asks in ({}, {"lost_note": tmp_path / "note"}):
        with pytest.raises(EngineUnavailable, match="by 2 processes"):
            engine_at(fake.url, tiny_model, **asks)


def test_a_server_that_cannot_read_the_folder_says_where_to_start_it(fake, tiny_model):
    fake.takes_weights, fake.readable = True, False
    with pytest.raises(EngineUnavailable, match=r"cannot load .*answered 500.*start it where it can read"):
        engine_at(fake.url, tiny_model)


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:9"])
def test_no_server_is_one_sentence(address, tiny_model):
    with pytest.raises(EngineUnavailable, match="server") as caught:
        engine_at(address, tiny_model)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
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
    found = rows(engine, 100)
    thread.join()
    assert [c.tokens for c in found] == expected(100)
    assert (first.completed > 40, later[0].completed) == (True, 100)
    stop(later[0])


@pytest.mark.slow
def test_a_server_that_stays_away_is_one_sentence(tiny_model, monkeypatch):
    monkeypatch.setattr(module.Server.wait, "__defaults__", (0.5,))
    engine = engine_at(start(str(tiny_model), vanish_after=1).url, tiny_model)
    with pytest.raises(EngineUnavailable, match=r"vanished and did not come back within 0 s: start it"):
        rows(engine, 3)


def test_in_rl_a_server_that_vanishes_is_lost_and_is_not_asked_again(tiny_model, tmp_path):
    """What the trainer pushed is gone with the process that held it."""
    server = start(str(tiny_model), vanish_after=40)
    engine = engine_at(server.url, tiny_model, lost_note=tmp_path / "lost")
    with pytest.raises(ServiceLost, match="vanished"):
        rows(engine, 100)
    assert "vanished" in (tmp_path / "lost").read_text()


class Received:
    """Stands for TRL's NCCL connection."""

    def __init__(self, url):
        self.names = []

    def send(self, weights):
        self.names += [name for name, _ in weights]

    def close(self):
        pass


def test_one_process_pushes_and_the_others_only_gather(fake, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_server, "WeightSender", Received)
    for pushes in (True, False):
        engine = engine_at(fake.url, tiny_model, lost_note=tmp_path / "lost", pushes=pushes)
        weights = iter([("a", 1), ("b", 2)])
        engine.load(weights)
        assert next(weights, None) is None
        assert (engine._sender.names if pushes else engine._sender) == (["a", "b"] if pushes else None)


def test_in_rl_a_server_restarted_before_the_weights_come_is_lost(fake, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_server, "WeightSender", Received)
    engine = engine_at(fake.url, tiny_model, lost_note=tmp_path / "lost")
    fake.instance = "b"
    with pytest.raises(ServiceLost, match="restarted"):
        engine.load(iter([("a", 1)]))


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
