"""A vLLM server as its clients see it: an address that answers, vanishes, or comes back as another process.

A server that was restarted serves the weights it was started with, not those that were pushed to it, and
answers as before. `Server.instance` tells the two apart.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from tasks.job import LOST, ServiceLost
from tasks.rollout.engine import EngineUnavailable

log = logging.getLogger(__name__)

COMPLETION_SECONDS = 3_600.0
"""Longest wait for one completion."""
IN_FLIGHT = 256
"""Requests at once; the server batches them."""
RETURN_SECONDS = 240.0
"""Longest wait for a server that vanished; as long as TRL waits for one at its start."""
_LOOK_EVERY = 15.0
_LOOK_SECONDS = 30.0
_SILENCE_SECONDS = 120.0


class ServerGone(EngineUnavailable):
    """Nothing answers at the address (any more)."""


class Refused(RuntimeError):
    """The server answers, but not what was asked for."""


class Server:
    """The server at `url` (no slash at its end).

    Nothing is asked again by itself: whether it may be depends on the weights, which the caller knows.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # A connection a request: one that lay idle may be closed by the server just as it is used again.
        # httpx was used before: with 256 connections its pool looks at each whenever one is asked or
        # answered, 22 ms of processor time an answer of 300 tokens. OpenAI's client is built on it.
        closing = {"Connection": "close"}
        self._http = urllib3.PoolManager(maxsize=IN_FLIGHT, retries=False, headers=closing)

    def get(self, path: str) -> dict[str, Any]:
        """The JSON answer. Raises as `post`."""
        return self._answer("GET", path, None, _LOOK_SECONDS)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON answer to a POST of `body`.

        Raises:
            ServerGone: nothing answers, or the answer broke off.
            Refused: with the server's reason.
        """
        return self._answer("POST", path, body, COMPLETION_SECONDS)

    def call_workers(self, method: str, **arguments: str) -> None:
        """Call a method of the server's workers. Needs VLLM_SERVER_DEV_MODE=1. Raises as `post`."""
        self.post("/collective_rpc", {"method": method, "kwargs": arguments})

    def instance(self) -> str:
        """A name of the server's process: another one after a restart. Needs VLLM_SERVER_DEV_MODE=1.

        Raises:
            EngineUnavailable: several processes answer, each with a name of its own.
        """
        config = self.get("/server_info?config_format=json")["vllm_config"]
        if (count := config["parallel_config"].get("_api_process_count", 1)) > 1:
            raise EngineUnavailable(
                f"the vLLM server at {self.url} answers by {count} processes, so that a restart, after which "
                "the weights are gone, cannot be told: start it with --api-server-count 1"
            )
        return str(config["instance_id"])

    def takes_weights(self) -> bool:
        """Whether TRL can push weights to it (development endpoints and a weight-transfer engine)."""
        try:
            config = self.get("/server_info?config_format=json")["vllm_config"]
        except Refused:
            return False
        return config.get("weight_transfer_config") is not None

    def is_up(self) -> bool:
        try:
            return self._http.request("GET", f"{self.url}/health", timeout=_LOOK_SECONDS).status < 300
        except urllib3.exceptions.HTTPError:
            return False

    def wait(self, seconds: float = RETURN_SECONDS) -> None:
        """Until it answers.

        Raises:
            EngineUnavailable: it did not come back in time.
        """
        retry = Retrying(
            stop=stop_after_delay(seconds), wait=wait_fixed(1), retry=retry_if_result(lambda up: not up)
        )
        try:
            retry(self.is_up)
        except RetryError:
            raise EngineUnavailable(
                f"the vLLM server at {self.url} vanished and did not come back within {seconds:.0f} s: "
                "start it again; what was sampled is kept"
            ) from None

    def _answer(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        try:
            answer = self._http.request(method, self.url + path, json=body, timeout=seconds)
        except urllib3.exceptions.HTTPError as error:
            raise ServerGone(
                f"no vLLM server answers at {self.url} ({error}): start it with `vllm serve MODEL`, "
                "or fix engine.server_url"
            ) from error
        if answer.status >= 500 and not self.is_up():
            raise ServerGone(f"the vLLM server at {self.url} broke down: {_shown(answer.data)}")
        if answer.status >= 400:
            raise Refused(f"{self.url}{path} answered {answer.status}: {_shown(answer.data)}")
        document: dict[str, Any] = json.loads(answer.data)
        return document


def _shown(answer: bytes) -> str:
    return answer.decode(errors="replace")[:500]


def stay_on_loopback(url: str) -> None:
    """A server on this machine is sent weights over loopback; vLLM would announce an outside address."""
    if urllib.parse.urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}:
        os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")


class ServerWatch:
    """Sees that a job's server stays what it was: the process that was given the job's weights.

    A trainer cannot go on with another one: the connection that carries the weights died with the first,
    and where the exchange of weights is cut off, the GPU waits for ever. So the job ends as lost, and
    whoever started it starts it again from its checkpoint, with the server that is there then.
    """

    def __init__(self, url: str, note: Path) -> None:
        """`note` gets the reason before the process ends; for a parent process that cannot see it end."""
        self._server, self._note = Server(url.rstrip("/")), note
        self._instance = self._server.instance()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around whatever uses the server.

        Raises:
            ServiceLost: the server is gone or another one. Where the block hangs, the process ends.
        """
        done = threading.Event()
        watchdog = threading.Thread(target=self._look_until, args=(done,), daemon=True)
        watchdog.start()
        try:
            yield
        except Exception as error:
            self._require(error)
            raise
        finally:
            done.set()
            watchdog.join()
        self._require(None)

    def _require(self, cause: Exception | None) -> None:
        if reason := self._loss():
            self._note.write_text(reason)
            raise ServiceLost(reason) from cause

    def _loss(self) -> str:
        """Why the server is not the one it was; empty where it is."""
        try:
            now = self._server.instance()
        except (ServerGone, Refused) as error:
            return f"the vLLM server at {self._server.url} vanished ({error})"
        if now != self._instance:
            return f"the vLLM server at {self._server.url} was restarted and lost the policy's weights"
        return ""

    def _look_until(self, done: threading.Event) -> None:
        """Ends the process once the server was lost for `_SILENCE_SECONDS`: the block would not end."""
        well = time.monotonic()
        while not done.wait(_LOOK_EVERY):
            if not (reason := self._loss()):
                well = time.monotonic()
            elif time.monotonic() - well > _SILENCE_SECONDS:
                log.error("%s; nothing moves, ending", reason)
                self._note.write_text(reason)
                os._exit(LOST)
