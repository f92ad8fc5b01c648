"""For each family: the recipe from the base's folder to an exported R1, prompts read in one way all along."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from artifacts.store import ArtifactStore
from artifacts.tables import read_table
from tasks.export import export_model
from tasks.rendering import TAGS, parse_completion
from tasks.rollout.engine import SampledModel
from tasks.rollout.engines import open_engine
from tasks.rollout.engines.transformers import TransformersEngine
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.text import TextSampler
from tasks.sft import train as sft
from tasks.tables import TABLES
from tasks.tokenizer import Codec
from tests.artifacts.builders import manifest_for
from tests.families.bases import FAMILIES, write_base
from tests.families.recipe import PROBLEMS, LocalRecipe, pretrain, run_recipe
from tests.rollout import fake_vllm

pytestmark = pytest.mark.slow

TEMPLATES = {"llama3": "chat", "qwen3": "chat", "gemma3": "Question: {question}\nAnswer:"}
"""Of the others' prompts: `plain`."""
QUESTION = PROBLEMS[0].prompt


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small are slower on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def read(monkeypatch):
    """What the stages' models were given to read: node -> prompts as token ids."""
    seen: dict[str, set[tuple[int, ...]]] = {}
    generate, build_trainer, make = TransformersEngine.generate, sft.build_trainer, LocalRecipe._job
    at_work = [""]

    def job(self, node, *args):
        at_work[0] = node
        return make(self, node, *args)

    def generated(self, prompts, *args, **kwargs):
        seen.setdefault(at_work[0], set()).update(map(tuple, prompts))
        return generate(self, prompts, *args, **kwargs)

    def trained(config, folder, model, tokenizer, rows, fitting):
        seen.setdefault(at_work[0], set()).update(tuple(rows.prompt(row)) for row in fitting)
        return build_trainer(config, folder, model, tokenizer, rows, fitting)

    monkeypatch.setattr(LocalRecipe, "_job", job)
    monkeypatch.setattr(TransformersEngine, "generate", generated)
    monkeypatch.setattr(sft, "build_trainer", trained)
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_the_recipe_runs_and_every_stage_reads_and_writes_alike(name, tmp_path, read):
    family, template = FAMILIES[name], TEMPLATES.get(name, "plain")
    base = write_base(family, tmp_path / "base")
    pretrain(base, template)
    made = run_recipe(tmp_path, template, base).made

    store = ArtifactStore.open(str(tmp_path / "store"))
    shutil.copytree(made["r1"].folder, tmp_path / "r1")  # the store takes what it publishes
    ref = store.publish(tmp_path / "r1", manifest_for("r1"), TABLES)
    exported = export_model(store, ref, tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(exported)

    def asked(question: str) -> list[int]:
        turn = [{"role": "user", "content": question}]
        return tokenizer.apply_chat_template(turn, add_generation_prompt=True).input_ids

    prompts = {tuple(asked(problem.prompt)) for problem in PROBLEMS}
    stages = {"r1-zero", "cold-start", "dev1", "dev2", "mixture", "dev3", "reward-models", "r1",
              "student-distilled", "student-rl-only", "evaluation.r1"}  # fmt: skip
    assert stages <= set(read)
    assert set().union(*read.values()) <= prompts

    starts = tokenizer.convert_tokens_to_ids(list(family.start))
    assert all(list(p[: len(starts)]) == starts and p.count(starts[0]) == 1 for p in prompts if starts)
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert all(p[-1] != end for p in prompts)

    check_format(made)
    check_export(exported, made["r1"].folder / "model", asked(QUESTION), end)
    check_server(exported, template, asked(QUESTION))


def check_format(made) -> None:
    """RL and evaluation give the same text the same format reward, and trained models have the layout."""
    for node in ("r1-zero", "dev2", "r1", "evaluation.r1-zero", "evaluation.dev1"):
        rows = read_table(made[node].folder / "samples.parquet").to_pylist()
        assert all((r["reward_format"] == 1) == parse_completion(r["completion"]).well_formed for r in rows)
        assert sum(r["reward_format"] for r in rows) > 0.5 * len(rows), node
    for node in ("dev1", "dev3", "student-distilled"):
        assert made[node].headline["stop_share"] > 0.5
        assert made[node].headline["special_share"] == 0


def check_export(folder, trained, prompt, end) -> None:
    """The exported model goes on from the prompt, token by token, as the stages' own engine does."""
    model, codec = AutoModelForCausalLM.from_pretrained(folder), Codec.of(trained)
    assert model.config.use_cache
    ends = model.generation_config.eos_token_id
    assert end in (ends if isinstance(ends, list) else [ends])
    assert model.generation_config.pad_token_id == codec.tokenizer.pad_token_id
    greedy = Sampling(temperature=1e-4, max_new_tokens=40)
    engine = open_engine(EngineSettings(), SampledModel(trained, codec.end_tokens))
    (completion,) = engine.generate([prompt], greedy, [[0]])
    with torch.no_grad():
        scores = model(torch.tensor([prompt + completion.tokens])).logits[0, len(prompt) - 1 : -1]
    chosen = scores.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
    assert (scores.max(dim=1).values - chosen).max() < 0.01  # two tokens of a random model can be as good
    (text,) = codec.texts([completion.tokens])
    assert [text.count(tag) for tag in TAGS] == [1, 1, 1, 1]  # it may answer nothing


def check_server(folder, template, prompt) -> None:
    """A vLLM server gets token ids, those of the exported chat template."""
    codec = Codec.of(folder)
    with fake_vllm.running(str(folder)) as server:
        server.ends = sorted(codec.end_tokens)
        settings = EngineSettings(name="vllm-server", server_url=server.url)
        sampler = TextSampler(open_engine(settings, SampledModel(folder, codec.end_tokens)), codec)
        sampler.generate([sampler.prompt(template, QUESTION)], Sampling(max_new_tokens=4), 0)
        assert server.prompts == [prompt]
