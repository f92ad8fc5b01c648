"""The server client against an HTTP server that speaks vLLM's OpenAI interface (vLLM itself is not here)."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.config import EngineSettings, Sampling
from tasks.rollout.engine import EngineUnavailable, open_engine


class Handler(BaseHTTPRequestHandler):
    served = ""

    def do_GET(self):
        model = {"data": [{"id": "base", "root": self.served}]}
        self._answer(200, {"version": "0.31.0"} if self.path == "/version" else model)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "bad" in body["prompt"]:
            return self._answer(400, {"error": "prompt too long"})
        choice = {"text": f"{body['prompt']} {body['seed']}", "finish_reason": "length"}
        usage = {"prompt_tokens": 3, "completion_tokens": body["max_tokens"]}
        return self._answer(200, {"choices": [choice], "usage": usage})

    def _answer(self, status, document):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512


@pytest.fixture
def url(tiny_model, monkeypatch):
    monkeypatch.setattr(Handler, "served", str(tiny_model))
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_completions_come_back_in_order_with_their_seeds(url, tiny_model):
    engine = open_engine(EngineSettings(name="vllm-server", server_url=url + "/"), tiny_model)
    found = engine.generate([f"p{i}" for i in range(300)], Sampling(max_new_tokens=7), list(range(300)))
    assert [c.text for c in found] == [f"p{i} {i}" for i in range(300)]
    assert {(c.finish_reason, c.completion_tokens, c.prompt_tokens) for c in found} == {("length", 7, 3)}
    assert engine.name == "vllm-server 0.31.0"


def test_a_refused_request_shows_the_servers_reason(url, tiny_model):
    engine = open_engine(EngineSettings(name="vllm-server", server_url=url), tiny_model)
    with pytest.raises(RuntimeError, match=r"answered 400: .*prompt too long"):
        engine.generate(["bad"], Sampling(max_new_tokens=7), 0)


def test_another_model_needs_a_gpu_to_push_it(url, tmp_path):
    with pytest.raises(EngineUnavailable, match="serves another model"):
        open_engine(EngineSettings(name="vllm-server", server_url=url), tmp_path)


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:9"])
def test_no_server_is_one_sentence(address, tiny_model):
    with pytest.raises(EngineUnavailable, match="server") as caught:
        open_engine(EngineSettings(name="vllm-server", server_url=address), tiny_model)
    assert "\n" not in str(caught.value)
