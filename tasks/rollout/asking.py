"""A process that asks a vLLM server for completions: `python -m tasks.rollout.asking URL`.

Requests and answers take processor time in Python (an answer of 300 tokens with log-probabilities is 27 kB of
JSON). In threads of the trainer they would hold the interpreter while an update launches kernels. Here they
are the work of another processor, and the trainer reads token ids and log-probabilities only. Nothing here
imports torch. The process ends with the one that started it.

    it reads    a frame of JSON a request: place, body
    it writes   a frame of JSON for each request as it ends: place, tokens, log-probabilities or null; or
                place, the error's name, its text
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.rollout.server import IN_FLIGHT, Refused, Server, ServerGone
from tasks.supervise.peers import Channel, Peer, PeerDied

Place = tuple[int, int]
Written = tuple[list[int], list[float] | None]
"""Tokens, and their log-probabilities if they were asked for."""
_ERRORS = {error.__name__: error for error in (ServerGone, Refused, RuntimeError)}
_LONG = 1e6
"""Seconds. The process has its own limits, and the end of one is noticed at once."""


class Asker:
    """The process, for one call of `ask` at a time."""

    def __init__(self, url: str) -> None:
        root = str(Path(__file__).parents[2])
        found = {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
        self._peer = Peer([sys.executable, "-P", "-m", "tasks.rollout.asking", url], os.environ | found)
        self._end = weakref.finalize(self, self._peer.kill)

    def ask(self, bodies: Mapping[Place, Mapping[str, Any]]) -> Iterator[tuple[Place, Written]]:
        """Each completion as it ends. Where not all are taken, only `close` may follow.

        Raises:
            ServerGone, Refused: as `Server.post`.
            RuntimeError: an answer cannot be read, or the process died.
        """
        try:
            for asked in bodies.items():
                self._peer.send(json.dumps(asked).encode(), _LONG)
            for _ in bodies:
                (prompt, sample), *found = json.loads(self._peer.receive(_LONG))
                if isinstance(found[0], str):
                    raise _ERRORS[found[0]](found[1])
                yield (prompt, sample), (found[0], found[1])
        except PeerDied as error:
            raise RuntimeError(f"the process that asks the vLLM server died ({error})") from error

    def close(self) -> None:
        """End the process, and with it the requests that are under way."""
        self._end()


def written(server: Server, body: dict[str, Any]) -> Written | tuple[str, str]:
    """What the server writes for one request; or an error's name and text."""
    try:
        choice = server.post("/v1/completions", body)["choices"][0]
        given = choice.get("logprobs")
        return choice["token_ids"], given and [math.nan if x is None else x for x in given["token_logprobs"]]
    except (ServerGone, Refused) as error:
        return type(error).__name__, str(error)
    except Exception as error:  # noqa: BLE001 - whoever asked waits for an answer
        return "RuntimeError", f"an answer of {server.url} cannot be read ({type(error).__name__}: {error})"


def main(url: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which ends this process
    server, channel, turn = Server(url), Channel(sys.stdout.fileno(), sys.stdin.fileno()), threading.Lock()

    def answer(place: list[int], body: dict[str, Any]) -> None:
        message = json.dumps([place, *written(server, body)]).encode()
        with turn:
            channel.send(message, time.monotonic() + _LONG)

    threads = ThreadPoolExecutor(IN_FLIGHT)
    try:
        while True:
            threads.submit(answer, *json.loads(channel.receive(time.monotonic() + _LONG)))
    except PeerDied:  # the end of the input
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
