"""`vllm serve` on the CPU: its completions, new weights, and what happens when it is killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tasks.job import ServiceLost
from tasks.rollout.engine import SampledModel, generate_rows
from tasks.rollout.engines import open_engine
from tasks.rollout.server import Server
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.tokenizer import Codec
from tasks.training.models import load_policy
from tests.rollout.test_vllm import TINY, other_weights

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
pytestmark = [
    pytest.mark.slow,
    # With a GPU the client pushes over NCCL, whose two ends cannot share one: benchmarks/gpu_engines.py.
    pytest.mark.skipif(torch.cuda.is_available(), reason="serves on the CPU"),
]

PROMPTS, SAMPLING = [[5, 6, 7], [8, 9], [5, 6, 7], [10]], Sampling(max_new_tokens=24)
START_SECONDS = 400.0
"""Three processes that import vLLM; 40 s on two idle cores."""
ARGUMENTS = (
    "--max-model-len=256",
    "--logprobs-mode=processed_logprobs",
    "--max-logprobs=-1",
    '--weight-transfer-config={"backend": "nccl"}',
    '--compilation-config={"mode": 0}',
)


@contextmanager
def serving(port, log):
    """`vllm serve` of the tiny model, and its process group."""
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(TINY), "--host=127.0.0.1"]
    settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, f"--port={port}", *ARGUMENTS], env=os.environ | settings, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        kill(process)


def kill(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait(server, process, log):
    """Until it answers."""
    until = time.monotonic() + START_SECONDS
    while not server.is_up():
        assert process.poll() is None, log.read_text()[-3_000:]
        assert time.monotonic() < until, log.read_text()[-3_000:]
        time.sleep(1)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def engine_at(server, folder, **rl):
    settings = EngineSettings(name="vllm-server", server_url=server.url)
    return open_engine(settings, SampledModel(folder, Codec.of(TINY).end_tokens, **rl))


def drawn(engine, seeds=(1, 2, 3, 4), **kwargs):
    return generate_rows(engine, PROMPTS, SAMPLING, list(seeds), **kwargs)


def tokens(completions):
    return [completion.tokens for completion in completions]


def gap(folder, completions):
    """Mean distance of the log-probabilities from those of the folder's torch model, in nats."""
    model, gaps = load_policy(folder), []
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion.tokens])).logits[0, len(prompt) - 1 : -1]
        ours = logits.float().log_softmax(-1)[range(len(completion.tokens)), completion.tokens]
        gaps += (ours - torch.tensor(completion.logprobs)).abs().tolist()
    return sum(gaps) / len(gaps)


def test_a_real_server_draws_takes_weights_is_killed_and_comes_back(port, tmp_path, monkeypatch):
    monkeypatch.setattr(Server.wait, "__defaults__", (START_SECONDS,))
    server, log, other = Server(f"http://127.0.0.1:{port}"), tmp_path / "log", other_weights(tmp_path)
    with serving(port, log) as process:
        wait(server, process, log)
        engine = engine_at(server, TINY)
        assert engine.name == "vllm-server 0.31.0"
        first = drawn(engine)
        assert tokens(drawn(engine)) == tokens(first)
        assert tokens(drawn(engine, (5, 6, 7, 8))) != tokens(first)
        assert [c.logprobs for c in first] == [None] * 4
        assert {c.finish_reason for c in first} <= {"stop", "length"}
        assert gap(TINY, drawn(engine, logprobs=True)) < 0.05

        engine.load(other)
        swapped = drawn(engine)
        assert tokens(swapped) != tokens(first)
        assert gap(other, drawn(engine, logprobs=True)) < 0.05 < gap(TINY, drawn(engine, logprobs=True))

        in_rl = engine_at(server, other, lost_note=tmp_path / "lost")
        os.killpg(process.pid, signal.SIGSTOP)  # so that the requests are under way when it dies
        threading.Timer(1, kill, (process,)).start()
        found = []
        asking = threading.Thread(target=lambda: found.append(drawn(engine)))
        asking.start()
        process.wait()
        with pytest.raises(ServiceLost, match="vanished"):
            drawn(in_rl)

    with serving(port, log) as again:
        wait(server, again, log)
        asking.join()
        assert tokens(found[0]) == tokens(swapped)  # it was given its weights again: it had started with TINY
        with pytest.raises(ServiceLost, match="was restarted and lost the policy's weights"):
            drawn(in_rl)
        assert (tmp_path / "lost").read_text()
