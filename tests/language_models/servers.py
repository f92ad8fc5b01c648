"""A real OpenAI-compatible server for tests, and a proxy that puts faults in front of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def with_chat_template(model: Path, folder: Path) -> Path:
    """A copy of a model whose tokenizer has a chat template, which `transformers serve` needs."""
    folder.mkdir(parents=True)
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT_TEMPLATE}))
    return folder


@contextmanager
def transformers_serve(model: Path, log: Path) -> Iterator[str]:
    """`transformers serve` of a model folder on the CPU; yields the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    options = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], stdout=output, stderr=output, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()[-2_000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait(20)


@dataclass
class Scripted:
    """A local server whose replies are given: what a proxy in front of a real one says when it fails.

    Each request takes the next reply: `"pass"` is answered by the server behind it (or by `text`), a number
    is a status, `"slow"` waits, `"cut"` breaks off in the middle of the JSON, `"html"` is no JSON at all,
    `"empty"` is a completion without a text. After the last one everything passes.
    """

    replies: list[str | int | tuple[int, dict[str, str]]] = field(default_factory=list)
    behind: str = ""
    text: str = "hello"
    seen: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, body: dict, headers: dict[str, str]) -> str | int | tuple[int, dict[str, str]]:
        with self.lock:
            self.seen.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            return self.replies.pop(0) if self.replies else "pass"

    def completion(self, body: dict) -> bytes:
        if self.behind:
            answer = httpx.post(f"{self.behind}/chat/completions", json=body, timeout=60, trust_env=False)
            return answer.content
        said = self.text(body) if callable(self.text) else self.text
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        return json.dumps(
            {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}
        ).encode()


@contextmanager
def scripted(*replies: str | int | tuple[int, dict[str, str]], **how: object) -> Iterator[Scripted]:
    """A `Scripted` server at `url`."""
    script = Scripted(list(replies), **how)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            reply = script.next(body, {name.lower(): value for name, value in self.headers.items()})
            status, headers = reply if isinstance(reply, tuple) else (reply, {})
            if isinstance(status, int):
                # Servers repeat what they were sent, as OpenAI does with part of the key.
                said = f"no: {self.headers.get('authorization')}".encode()
                return self.reply(status, json.dumps({"error": {"message": said.decode()}}).encode(), headers)
            if status == "slow":
                time.sleep(1.5)
            page = {
                "html": b"<html>502 Bad Gateway</html>",
                "empty": b'{"choices": [{"message": {"content": ""}}]}',
            }
            content = page[status] if status in page else script.completion(body)
            content = content[:40] if status == "cut" else content
            self.reply(200, content, {})

        def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            try:
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the client gave up

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def questions(body: dict) -> Sequence[str]:
    """The texts of a request."""
    return [message["content"] for message in body["messages"]]
