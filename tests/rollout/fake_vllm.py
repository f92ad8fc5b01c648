"""An HTTP server that speaks the part of vLLM's interface that this project uses (vLLM is not here)."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeVllm(ThreadingHTTPServer):
    """Completes a prompt by `written`; after `vanish_after` completions it closes its door."""

    request_queue_size = 512
    allow_reuse_address = True

    def __init__(self, root: str, instance: str = "a", port: int = 0, vanish_after: int = -1) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.root, self.instance, self.vanish_after = root, instance, vanish_after
        self.takes_weights, self.completed, self.lock = False, 0, threading.Lock()
        self.api_processes = 1
        self.ends, self.prompts, self.readable, self.calls = [1], [], True, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count_completion(self) -> bool:
        """Whether this one is still answered."""
        with self.lock:
            self.completed += 1
            return self.vanish_after < 0 or self.completed <= self.vanish_after

    def handle_error(self, request, client_address) -> None:
        """A client that hung up is no news."""


def written(prompt: list[int], seed: int, length: int) -> list[int]:
    """Tokens that depend on the prompt and the seed; an end token (1) where the seed is even."""
    tokens = [prompt[-1], seed % 1000, *range(100, 100 + length)][:length]
    return [*tokens[:-1], 1] if seed % 2 == 0 else tokens


class _Handler(BaseHTTPRequestHandler):
    server: FakeVllm

    def do_GET(self):
        transfer = {"backend": "nccl"} if self.server.takes_weights else None
        info = {
            "instance_id": self.server.instance, "weight_transfer_config": transfer,
            "parallel_config": {"_api_process_count": self.server.api_processes},
        }  # fmt: skip
        answers = {
            "/version": {"version": "0.31.0"},
            "/v1/models": {"data": [{"id": "base", "root": self.server.root}]},
            "/health": {},
            "/server_info?config_format=json": {"vllm_config": info},
        }
        self._answer(200, answers[self.path])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions":
            self.server.calls.append((self.path, body))
            return self._answer(200 if self.server.readable else 500, {"results": [None]})
        if not self.server.count_completion():
            threading.Thread(target=stop, args=(self.server,)).start()
            return self.connection.close()
        if 666 in body["prompt"]:
            return self._answer(400, {"error": "prompt too long"})
        assert (body["stop_token_ids"], body["return_token_ids"]) == (self.server.ends, True)
        self.server.prompts.append(body["prompt"])
        tokens = written(body["prompt"], body["seed"], body["max_tokens"])
        logprobs = {"token_logprobs": [-0.5] * len(tokens)} if "logprobs" in body else None
        return self._answer(200, {"choices": [{"token_ids": tokens, "logprobs": logprobs}]})

    def _answer(self, status, document):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *args):
        pass


def start(root: str, **kwargs) -> FakeVllm:
    server = FakeVllm(root, **kwargs)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def stop(server: FakeVllm) -> None:
    server.shutdown()
    server.server_close()


@contextmanager
def running(root: str, **kwargs):
    server = start(root, **kwargs)
    try:
        yield server
    finally:
        stop(server)
