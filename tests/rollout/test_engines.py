"""The registry and the contract: one file and one line make an engine, for sampling and for RL alike."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from artifacts.tables import read_table
from tasks.judged_samples import judged_samples
from tasks.kinds import Kind
from tasks.problem import Problem
from tasks.rewards.pool import VerifierPool
from tasks.rl.stage import RLConfig
from tasks.rl.train import run
from tasks.rollout import engines
from tasks.rollout.engine import Completion, EngineUnavailable, SampledModel, generate_rows
from tasks.rollout.engines import ENGINES, EngineEntry, open_engine
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.settings import REPOSITORY
from tests.jobs import local_job

ONE_FILE = '''
from torch import nn
from tasks.rollout.decoding import decode
from tasks.rollout.engine import Completion, finish_reason
from tasks.rollout.weights import named_weights
from tasks.training.models import load_policy

class OneByOne:
    """A copy of the model that answers the last request first, a completion at a time."""

    name = "one-by-one 1"
    loads = 0

    def __init__(self, settings, model):
        self.model, self.ends = load_policy(model.folder).eval(), model.end_tokens

    def generate(self, prompts, sampling, seeds, logprobs=False):
        for p in reversed(range(len(prompts))):
            for s, seed in enumerate(seeds[p]):
                tokens, = decode(self.model, [prompts[p]], sampling, [seed], self.ends, 1)
                drawn = [float("nan")] * len(tokens) if logprobs else None
                yield Completion(p, s, tokens, finish_reason(tokens, self.ends), drawn)

    def load(self, weights):
        OneByOne.loads += 1
        self.model.load_state_dict(dict(named_weights(weights)), strict=False)

    def close(self):
        self.model = None
'''


@pytest.fixture
def one_by_one(tmp_path, monkeypatch):
    """The throw-away engine: its file, and its line in the registry."""
    (tmp_path / "one_by_one.py").write_text(ONE_FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(ENGINES, "one-by-one", EngineEntry("one_by_one:OneByOne"))
    yield EngineSettings(name="one-by-one")
    sys.modules.pop("one_by_one", None)


@pytest.mark.slow
def test_a_new_engine_samples_what_the_embedded_one_does(one_by_one, tiny_model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model").symlink_to(tiny_model)
    problems = [Problem(f"m{i}", "math", "en", f"compute {i} + 1", str(i + 1), "math") for i in range(3)]
    inputs, written = {"checkpoint": (Kind.checkpoint, tmp_path / "in")}, []
    for number, engine in enumerate((EngineSettings(), one_by_one)):
        job = local_job(tmp_path / str(number), "base", "evaluate", inputs)
        short = Sampling(max_new_tokens=12)
        with VerifierPool() as pool:
            (table,) = judged_samples(
                job.inputs["checkpoint"], problems, "r1", short, 4, 0, engine, job, pool
            )
        written.append(table["completion"].to_pylist())
    assert set(table["engine"].to_pylist()) == {"one-by-one 1"}
    assert written[0] == written[1]


@pytest.mark.slow
def test_a_new_engine_does_rl(one_by_one, checkpoint, problems, tmp_path):
    """The same run as with the embedded engine: it gets the weights of every step."""
    config = RLConfig(
        template="plain", domains=("math",), steps=3, group_size=4, questions_per_step=4,
        mini_batches_per_rollout=1, micro_batch_tokens=256, learning_rate=1e-3, max_completion_length=24,
        checkpoint_every=2, engine=one_by_one,
    )  # fmt: skip
    inputs, drawn = {"checkpoint": (Kind.checkpoint, checkpoint), "problems": (Kind.problems, problems)}, []
    for number, engine in enumerate((EngineSettings(), one_by_one)):
        job = local_job(tmp_path / str(number), "r1", "rl-zero", inputs)
        run(config.model_copy(update={"engine": engine}), job)
        drawn.append(read_table(job.draft / "samples.parquet"))
    assert drawn[0]["completion"].to_pylist() == drawn[1]["completion"].to_pylist()
    assert set(drawn[1]["engine"].to_pylist()) == {"one-by-one 1"}
    assert sys.modules["one_by_one"].OneByOne.loads == 4  # the canary, and three steps


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(ValidationError, match="no engine 'vlm': did you mean vllm"):
        EngineSettings(name="vlm")
    with pytest.raises(ValidationError, match="choose one of transformers, vllm, vllm-server"):
        EngineSettings(name="something")


def test_every_registered_engine_is_a_file_beside_the_registry():
    for entry in ENGINES.values():
        module, _, name = entry.path.partition(":")
        assert f"class {name}" in Path(importlib.util.find_spec(module).origin).read_text()
    files = {p.stem for p in Path(engines.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {entry.path.partition(":")[0].rpartition(".")[2] for entry in ENGINES.values()}


def test_nothing_outside_the_registry_asks_for_an_engines_name():
    """What the project must know about an engine stands in its `EngineEntry`."""
    names = "|".join(re.escape(name) for name in ENGINES)
    asks = re.compile(rf"""use_vllm(?!=False)|vllm_mode|vllm_generation|[=!]= ?["'](?:{names})["']""")
    code = [p for folder in ("tasks", "flows") for p in (REPOSITORY / folder).rglob("*.py")]
    assert len(code) > 100
    found = {
        f"{path.relative_to(REPOSITORY)}: {line.strip()}"
        for path in code
        if "rollout/engines" not in path.as_posix()
        for line in path.read_text().splitlines()
        if asks.search(line)
    }
    assert found == set()


def test_the_registry_and_the_contract_import_no_torch():
    script = (
        "import sys, tasks.rollout.engines, tasks.rollout.engine, tasks.rl.stage; "
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert shown.stdout == "False\n"


def test_vllm_that_is_not_installed_says_what_to_do(tiny_model):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(EngineUnavailable, match=r"pip install -e '.\[gpu\]'"):
        open_engine(EngineSettings(name="vllm"), SampledModel(tiny_model, frozenset([1])))


class Backwards:
    """Answers the last request first."""

    def generate(self, prompts, sampling, seeds, logprobs):
        self.asked = (prompts, seeds)
        for p in reversed(range(len(prompts))):
            for s in reversed(range(len(seeds[p]))):
                yield Completion(p, s, [*prompts[p], seeds[p][s]], "length")


def test_neighbours_with_one_prompt_are_one_request_and_rows_keep_their_order():
    engine, told = Backwards(), []
    prompts = [[1], [1], [2], [1]]
    done = generate_rows(
        engine, prompts, Sampling(), [7, 8, 9, 10], finished=lambda row, c: told.append((row, c.tokens[-1]))
    )
    assert [c.tokens for c in done] == [[1, 7], [1, 8], [2, 9], [1, 10]]
    assert engine.asked == ([[1], [2], [1]], [[7, 8], [9], [10]])
    assert told == [(3, 10), (2, 9), (1, 8), (0, 7)]
    with pytest.raises(ValueError, match="2 seeds for 1 prompts"):
        generate_rows(engine, [[1]], Sampling(), [1, 2])
