"""A vLLM server over its OpenAI interface: one rollout fleet for several machines or stages.

    VLLM_SERVER_DEV_MODE=1 vllm serve BASE --weight-transfer-config '{"backend": "nccl"}' \\
        --logprobs-mode processed_logprobs --max-logprobs -1

A server that was started so keeps its architecture and gets weights over NCCL from TRL's `VLLMClient`, which
needs vLLM and a GPU here as well. It gets them always: what it holds from before cannot be told. Without a
GPU here it is told to read the checkpoint's folder itself, which must have the same path there. So a server
on the CPU serves evaluation and curation, but not RL. One without `--weight-transfer-config` must serve the
checkpoint's own folder. One job at a time may use a server. It has one API process, as that one's name
tells a restart.

What is done about a server that vanishes or comes back as another process depends on where its weights came
from. Those of a folder are given again and the same is asked again: a completion depends on its prompt, the
sampling and its seed alone. Those of a trainer cannot be had a second time in the middle of a rollout, and
the exchange of weights would hang: the job ends as lost and goes on from its checkpoint.

`tests/rollout/test_vllm_serve.py` drives, kills and restarts `vllm serve` 0.31 on the CPU, and
`benchmarks/gpu_engines.py` 0.26 on GPUs. What a real server does not do on demand is tested against a local
HTTP server that speaks the same interface.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from tasks.rollout.asking import Asker, Place
from tasks.rollout.engine import (
    Completion,
    EngineUnavailable,
    SampledModel,
    TokenIds,
    Weights,
    finish_reason,
)
from tasks.rollout.server import Refused, Server, ServerGone, ServerWatch, stay_on_loopback
from tasks.rollout.settings import EngineSettings, Sampling

log = logging.getLogger(__name__)

_TRIES = 3
"""How often one call of `generate` asks a server that keeps vanishing and coming back."""


class VllmServerEngine:
    """A server at `settings.server_url` that holds the weights of one model."""

    def __init__(self, settings: EngineSettings, model: SampledModel) -> None:
        if not settings.server_url:
            raise EngineUnavailable(
                "engine.name is vllm-server: set engine.server_url to the server's address"
            )
        self._server = Server(settings.server_url.rstrip("/"))
        self._end_tokens, self._pushes = model.end_tokens, model.pushes
        self.name = f"vllm-server {self._server.get('/version')['version']}"
        self._sender: WeightSender | None = None
        self._watch: ServerWatch | None = None
        self._askers: list[Asker] = []
        """Those that are idle: one, unless calls of `generate` overlap."""
        self._folder, self._pushed_to = model.folder, ""
        if model.lost_note is None:
            self.load(model.folder)
        else:
            # In RL the trainer loads its weights before the first rollout.
            self._watch = ServerWatch(self._server.url, model.lost_note)
            self._model = self._served()["id"]

    def generate(
        self,
        prompts: Sequence[TokenIds],
        sampling: Sampling,
        seeds: Sequence[Sequence[int]],
        logprobs: bool = False,
    ) -> Iterator[Completion]:
        """See `Engine.generate`. Each completion is a request of its own, as its seed is."""
        bodies = {
            (prompt, sample): self._body(prompts[prompt], sampling, seed, logprobs)
            for prompt, group in enumerate(seeds)
            for sample, seed in enumerate(group)
        }
        if self._watch is not None:
            with self._watch.watching():
                yield from self._complete(bodies)
            return
        # What was written before a restart may be the work of other weights: it is told only once the server
        # is known to be the one that was loaded.
        yield from self._complete_surely(bodies)

    def load(self, weights: Weights) -> None:
        """See `Engine.load`.

        Raises:
            EngineUnavailable: it serves another model and takes no weights, or cannot get the folder's.
            ServiceLost: in RL, the server vanished or was restarted.
        """
        if isinstance(weights, Path):
            self._load_folder(weights)
        elif not self._pushes:
            for _ in weights:
                pass
        else:
            with self._watched():
                self._send(weights)

    def close(self) -> None:
        """The server lives on; the connection for weights ends, and what asks it."""
        while self._askers:
            self._askers.pop().close()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _watched(self) -> AbstractContextManager[None]:
        return nullcontext() if self._watch is None else self._watch.watching()

    def _served(self) -> dict[str, Any]:
        served: dict[str, Any] = self._server.get("/v1/models")["data"][0]
        return served

    def _load_folder(self, folder: Path) -> None:
        served = self._served()
        self._model, self._folder, self._pushed_to = served["id"], folder, ""
        if self._server.takes_weights():
            instance = self._server.instance()
            if _gpu_is_here():
                self._push_folder(folder)
            else:
                self._reload_there(folder)
            self._pushed_to = instance
        elif str(folder) not in (served["id"], served.get("root")):
            raise EngineUnavailable(
                f"the server at {self._server.url} serves another model: restart it with "
                f"`vllm serve {folder}`, or so that it takes weights (VLLM_SERVER_DEV_MODE=1 and "
                "--weight-transfer-config)"
            )

    def _push_folder(self, folder: Path) -> None:
        from tasks.rollout.weights import folder_weights

        self._send(folder_weights(folder, "cuda"))
        self._disconnect()  # the weights stay, and a connection to a server that restarts would be dead

    def _reload_there(self, folder: Path) -> None:
        """The server reads the folder."""
        try:
            self._server.call_workers("reload_weights", weights_path=str(folder.resolve()))
        except Refused as error:
            raise EngineUnavailable(
                f"no GPU is here to push weights from, and the server at {self._server.url} cannot load "
                f"{folder} ({error}): start it where it can read this folder, or use a machine with a GPU"
            ) from error
        # Keys and values that the old weights made for a prompt would be taken for the new ones'.
        self._server.post("/reset_prefix_cache", {})

    def _send(self, weights: Any) -> None:
        if self._sender is None:
            self._sender = WeightSender(self._server.url)
        self._sender.send(weights)

    def _still_loaded(self) -> bool:
        """False where the weights were pushed and another process answers now."""
        return not self._pushed_to or self._server.instance() == self._pushed_to

    def _complete_surely(self, bodies: dict[Place, dict[str, Any]]) -> list[Completion]:
        for _ in range(_TRIES):
            try:
                completions = list(self._complete(bodies))
                if self._still_loaded():
                    return completions
                log.warning("the vLLM server at %s was restarted: sampling again", self._server.url)
            except ServerGone as error:
                log.warning("%s; waiting for it", error)
                self._server.wait()
            self._load_folder(self._folder)
        raise EngineUnavailable(
            f"the vLLM server at {self._server.url} vanished {_TRIES} times while it was asked the same "
            f"{len(bodies)} prompts: its own log says why"
        )

    def _body(self, prompt: TokenIds, sampling: Sampling, seed: int, logprobs: bool) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": list(prompt),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
            "stop_token_ids": sorted(self._end_tokens),
            "return_token_ids": True,
        } | ({"logprobs": 0} if logprobs else {})

    def _complete(self, bodies: dict[Place, dict[str, Any]]) -> Iterator[Completion]:
        try:
            asker = self._askers.pop()
        except IndexError:
            asker = Asker(self._server.url)
        try:
            for place, (tokens, logprobs) in asker.ask(bodies):
                yield Completion(*place, tokens, finish_reason(tokens, self._end_tokens), logprobs)
        except BaseException:  # also where the caller gave up half way
            asker.close()
            raise
        self._askers.append(asker)


class WeightSender:
    """TRL's NCCL connection to a server that takes weights; CUDA here and there."""

    def __init__(self, url: str) -> None:
        from trl.generation.vllm_client import VLLMClient

        stay_on_loopback(url)
        self._client = VLLMClient(base_url=url)
        self._client.init_communicator(device="cuda")

    def send(self, weights: Any) -> None:
        """The server has to know the names and shapes before it receives, so they go a bucket at a time."""
        from tasks.rollout.weights import buckets

        with self._client.weight_update():
            for bucket in buckets(weights):
                described = [(n, str(t.dtype).removeprefix("torch."), list(t.shape)) for n, t in bucket]
                self._client.update_named_params(described, iter(bucket))
        self._client.reset_prefix_cache()

    def close(self) -> None:
        self._client.close_communicator()


def _gpu_is_here() -> bool:
    import torch

    return bool(torch.cuda.is_available())
