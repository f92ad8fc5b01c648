"""vLLM in this process, where it is installed: `make test-vllm` brings its CPU build."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from tasks.settings import REPOSITORY

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
pytestmark = pytest.mark.slow

TINY = REPOSITORY / "tasks" / "tiny_world" / "weights" / "tiny-base"
SCRIPT = """
import gc, json, sys
from pathlib import Path
import torch
from tasks.rollout.engine import SampledModel
from tasks.rollout.engines import open_engine, vllm as vllm_engine
from tasks.rollout.kept import KeptEngine
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.weights import folder_weights
from tasks.tokenizer import Codec
from tasks.training.models import load_policy

folder, other = map(Path, sys.argv[1:])
model, ends = load_policy(folder), Codec.of(folder).end_tokens
settings = EngineSettings(name="vllm", gpu_memory_share=0.3)
objects, collect = [], gc.collect
def counted(generation=2):
    objects.append(len(gc.get_objects()))
    return collect(generation)
gc.collect = counted
engine = open_engine(settings, SampledModel(folder, ends, longest=256))
gc.collect = collect
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
vllm_engine._SEQUENCES = 3  # so that sequences have to wait for others to end
eight = drawn([[1, 2, 3, 5, 6], [4, 7, 8]])
unfinished = engine.generate(prompts, warm, [[1] * 8, [2] * 8])
next(unfinished)
unfinished.close()
result = {
    "name": engine.name,
    "places": sorted(first),
    "silent": all(c.logprobs is None for c in first.values()),
    "same": [first[0, 2].tokens == again[0, 0].tokens, first[0, 1].tokens == again[0, 1].tokens,
             first[1, 0].tokens == again[1, 0].tokens],
    "whole": len(eight) == 8 and all(eight[place].tokens == c.tokens for place, c in first.items()),
    "differ": first[0, 0].tokens != first[0, 1].tokens,
    "ends": all((c.tokens[-1] in ends) == (c.finish_reason == "stop") for c in first.values()),
    "gap": gap(again),
    "objects": objects,
}
with torch.no_grad():
    model.get_input_embeddings().weight.mul_(1.5)
engine.load((n, p.detach()) for n, p in model.named_parameters())
result["gap_after_load"] = gap(drawn([[1, 2], [3]], logprobs=True))
engine.load(folder)
vllm_engine._SEQUENCES = 64
crowd = [list(range(20, 120)) for _ in range(50)]  # more prompt tokens than are read in one step
result["crowd"] = len(list(engine.generate(crowd, Sampling(max_new_tokens=2), [[7]] * len(crowd))))
result["as_before"] = drawn([[1, 2, 3], [4]])[0, 0].tokens == first[0, 0].tokens
engine.close()

def texts(engine):
    return sorted((c.prompt, c.sample, c.tokens) for c in engine.generate(prompts, warm, [[1, 2, 3], [4]]))

kept, answers = KeptEngine(settings, SampledModel(folder, ends, longest=256)), []
for weights in (other, other, folder):
    result.setdefault("follows", []).append(kept.swap(weights))
    answers.append(texts(kept.engine))
kept.engine.close()
fresh = open_engine(settings, SampledModel(other, ends, longest=256))
result["as_fresh"] = answers[0] == answers[1] == texts(fresh) != answers[2]
fresh.close()
print("RESULT " + json.dumps(result))
"""


def other_weights(tmp_path):
    """The tiny model with larger embeddings."""
    folder = shutil.copytree(TINY, tmp_path / "other")
    weights = load_file(TINY / "model.safetensors")
    larger = {name: w * 1.5 if "embed" in name else w for name, w in weights.items()}
    save_file(larger, folder / "model.safetensors", {"format": "pt"})
    return folder


def result(script, *arguments) -> dict:
    """What the script prints after RESULT. It has a process of its own: vLLM leaves threads behind."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    shown = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    lines = [line for line in shown.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, shown.stderr[-3_000:]
    return json.loads(lines[0].removeprefix("RESULT "))


def test_the_engine_draws_by_seed_takes_weights_and_closes(tmp_path):
    found = result(SCRIPT, TINY, other_weights(tmp_path))
    assert found["name"].startswith("vllm ")
    assert found["places"] == [[0, 0], [0, 1], [0, 2], [1, 0]]
    for held in ("silent", "whole", "differ", "ends", "as_before", "as_fresh"):
        assert found[held], held
    assert found["same"] == found["follows"] == [True, True, True]
    assert found["crowd"] == 50
    # Only the first collection at the start looks at what the imports left behind.
    assert len(found["objects"]) > 1
    assert max(found["objects"][1:]) < found["objects"][0] / 2, found["objects"]
    assert found["gap"] < 0.05
    assert found["gap_after_load"] < 0.1


RL = """
import json, sys
from pathlib import Path
import vllm
from artifacts.tables import read_table, write_table
from tasks.kinds import Kind
from tasks.problem import Problem, to_table
from tasks.rl.stage import RLConfig
from tasks.rl.train import run
from tasks.rollout.settings import EngineSettings
from tasks.tables import PROBLEMS
from tests.jobs import local_job

model, root = Path(sys.argv[1]), Path(sys.argv[2])
(root / "checkpoint").mkdir()
(root / "checkpoint" / "model").symlink_to(model)
asked = [Problem(f"m{i}", "math", "en", f"compute {i} + 1", str(i + 1), "math") for i in range(8)]
write_table(root / "problems" / "problems.parquet", to_table(asked), PROBLEMS)
inputs = {
    "checkpoint": (Kind.checkpoint, root / "checkpoint"),
    "problems": (Kind.problems, root / "problems"),
}
asked, enqueue = [], vllm.LLM.enqueue
def recorded(llm, prompts, params, **rest):
    asked.append(sorted({p.logprobs is not None for p in params}))
    return enqueue(llm, prompts, params, **rest)
vllm.LLM.enqueue = recorded
config = RLConfig(
    template="plain", domains=("math",), steps=2, group_size=4, questions_per_step=4,
    mini_batches_per_rollout=1, micro_batch_tokens=256, learning_rate=1e-3, max_completion_length=24,
    engine=EngineSettings(name="vllm", gpu_memory_share=0.3),
)
job = local_job(root, "r1", "rl-zero", inputs)
run(config, job)
rows = read_table(job.draft / "metrics.parquet").to_pylist()
engines = set(read_table(job.draft / "samples.parquet")["engine"].to_pylist())
figures = {row["name"]: row["value"] for row in rows if row["step"] == 0}
print("RESULT " + json.dumps({"engines": sorted(engines), "asked": asked, **figures}))
"""


def test_rl_trains_on_what_vllm_draws(tmp_path):
    """With the canary: vLLM follows a changed weight and agrees with the trainer about log-probabilities."""
    found = result(RL, TINY, tmp_path)
    assert found["engines"][0].startswith("vllm ")
    assert found["canary_mismatch"] < 0.1 < found["canary_stale"]
    assert found["sampler_mismatch"] < 0.1
    # Step 0 measures the mismatch, step 1 does not: vLLM writes half as many tokens a second with them.
    assert found["asked"][-2:] == [[True], [False]]
