"""The process that asks a vLLM server: what it imports, what ends it, and how an error comes back."""

import socket
import subprocess
import sys

import psutil
import pytest

from tasks.rollout.asking import Asker
from tasks.rollout.engine import SampledModel
from tasks.rollout.engines import open_engine
from tasks.rollout.server import Refused, ServerGone
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.supervise.trees import is_alive
from tests.rollout.fake_vllm import running, written

SEVEN = Sampling(max_new_tokens=7)


def body(token):
    asked = {"prompt": [9, token], "seed": token, "max_tokens": 7}
    return asked | {"stop_token_ids": [1], "return_token_ids": True}


class Silent(socket.socket):
    """A server that takes requests and answers none."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.getsockname()[1]}"


@pytest.fixture
def silent():
    with Silent() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


@pytest.fixture
def asker(request):
    """Called with an address."""

    def opened(url):
        found = Asker(url)
        request.addfinalizer(found.close)
        return found

    return opened


def process(asker):
    return psutil.Process(asker._peer.pid)


def test_it_imports_no_torch():
    code = (
        "import sys, tasks.rollout.asking; sys.exit(any(m in sys.modules for m in ('torch', 'trl', 'numpy')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_process_answers_call_after_call(tmp_path, asker):
    with running(str(tmp_path)) as server:
        asks = asker(server.url)
        for first in (2, 12):
            found = dict(asks.ask({(0, i): body(i) for i in range(first, first + 9)}))
            assert found == {(0, i): (written([9, i], i, 7), None) for i in range(first, first + 9)}


def test_errors_are_those_of_the_server(tmp_path, asker):
    with running(str(tmp_path)) as server, pytest.raises(Refused, match="answered 400"):
        list(asker(server.url).ask({(0, 0): body(666)}))
    with pytest.raises(ServerGone, match="no vLLM server answers"):
        list(asker("http://127.0.0.1:9").ask({(0, 0): body(1)}))
    with running(str(tmp_path)) as server, pytest.raises(RuntimeError, match="cannot be read"):
        list(asker(server.url + "/elsewhere").ask({(0, 0): body(1)}))


ASKS_AND_DIES = """
import json, os, sys
from tasks.rollout.asking import Asker
asker = Asker(sys.argv[1])
asker._peer.send(json.dumps(((0, 0), {})).encode(), 9)
print(asker._peer.pid, flush=True)
sys.stdin.readline()
os._exit(0)
"""


@pytest.mark.slow
def test_it_ends_with_its_parent_although_a_request_is_under_way(silent):
    command = [sys.executable, "-c", ASKS_AND_DIES, silent.url]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    asking = psutil.Process(int(parent.stdout.readline()))
    silent.accept()  # the request is under way
    parent.communicate("\n")
    psutil.wait_procs([asking], 20)
    assert not is_alive(asking)


def test_the_death_of_the_process_is_one_sentence_and_the_next_call_has_another(tmp_path):
    with running(str(tmp_path)) as server:
        settings = EngineSettings(name="vllm-server", server_url=server.url)
        engine = open_engine(settings, SampledModel(tmp_path, frozenset([1])))
        ask = lambda: [c.tokens for c in engine.generate([[9, 3]], SEVEN, [[3]])]  # noqa: E731
        assert ask() == [written([9, 3], 3, 7)]
        (idle,) = engine._askers
        process(idle).kill()
        with pytest.raises(RuntimeError, match="the process that asks the vLLM server died"):
            ask()
        assert ask() == [written([9, 3], 3, 7)]
        (another,) = engine._askers
        engine.close()
        assert not another._peer.alive


def test_a_caller_that_gives_up_ends_the_requests(tmp_path):
    with running(str(tmp_path)) as server:
        settings = EngineSettings(name="vllm-server", server_url=server.url)
        engine = open_engine(settings, SampledModel(tmp_path, frozenset([1]), lost_note=tmp_path / "lost"))
        written = engine.generate([[9, 3]], SEVEN, [list(range(600))])
        next(written)
        (asking,) = [p for p in psutil.Process().children() if "tasks.rollout.asking" in p.cmdline()]
        written.close()
        assert not is_alive(asking)
        assert not engine._askers
