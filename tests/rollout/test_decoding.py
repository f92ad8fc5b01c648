"""The sampling loop against `generate`, and what must not change a completion."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.rollout import decoding
from tasks.rollout.decoding import decode, draw, uniform, write
from tasks.rollout.llama import Llama
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.text import open_sampler

PROMPTS = [
    "User: compute 1 + 2 Assistant:",
    "User: what is 3 + 4 + 5 * 6 Assistant:",
    "User: hello Assistant:",
    "User: 计算 1 + 2 Assistant:",
] * 3
GREEDY = Sampling(temperature=1e-4, max_new_tokens=24)
WARM = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=32)


def _engine(folder, batch_size=256):
    return open_sampler(EngineSettings(batch_size=batch_size), folder)


def test_near_greedy_equals_generate(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    inputs = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    whole = model.generate(**inputs, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    for ids, got in zip(
        whole[:, inputs.input_ids.shape[1] :], _engine(tiny_model).generate(PROMPTS, GREEDY, 0), strict=True
    ):
        kept = ids.tolist()
        stopped = tokenizer.eos_token_id in kept
        kept = kept[: kept.index(tokenizer.eos_token_id)] if stopped else kept
        assert got.text == tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        assert got.finish_reason == ("stop" if stopped else "length")
        assert got.completion_tokens == len(kept) + stopped


@pytest.fixture(scope="module")
def grouped_model(tiny_model, tmp_path_factory):
    """The tiny model's shape with grouped keys (four heads on two)."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = model.config
    config.num_key_value_heads = 2
    torch.manual_seed(1)
    grouped = type(model)(config)
    folder = tmp_path_factory.mktemp("grouped")
    grouped.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["tiny_model", "grouped_model"])
def test_batches_do_not_change_completions(folder, request):
    path = request.getfixturevalue(folder)
    prompts = PROMPTS * 8
    whole = _engine(path).generate(prompts, WARM, 7)
    few = _engine(path, batch_size=5).generate(prompts, WARM, 7)
    assert (
        sum(a == b for a, b in zip(whole, few, strict=True)) >= len(prompts) - 2
    )  # rounding may flip a draw
    assert len({c.text for c in whole}) > len(prompts) // 2
    assert whole != _engine(path).generate(prompts, WARM, 8)


def test_some_stop_and_some_are_cut(tiny_model):
    completions = _engine(tiny_model).generate(PROMPTS * 20, Sampling(max_new_tokens=40), 3)
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for c in completions:
        assert "<|end|>" not in c.text
        assert c.completion_tokens == 40 or c.finish_reason == "stop"


def test_own_seeds_and_grouped_heads_match_generate(grouped_model):
    engine = _engine(grouped_model)
    seeds = list(range(len(PROMPTS)))
    whole = engine.generate(PROMPTS, WARM, seeds)
    assert whole[3:5] == engine.generate(PROMPTS[3:5], WARM, seeds[3:5])
    model = AutoModelForCausalLM.from_pretrained(grouped_model)
    tokenizer = AutoTokenizer.from_pretrained(grouped_model)
    ids = tokenizer(PROMPTS[1], return_tensors="pt").input_ids
    greedy = model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    text = tokenizer.decode([t for t in greedy.tolist() if t != tokenizer.eos_token_id])
    assert engine.generate([PROMPTS[1]], GREEDY, 0)[0].text == text


def test_bad_prompts_are_named(tiny_model):
    engine = _engine(tiny_model)
    with pytest.raises(ValueError, match="the model reads 1 to 511"):
        engine.generate(["1 " * 600], WARM, 0)
    with pytest.raises(ValueError, match="2 seeds for 1 prompts"):
        engine.generate(["1"], WARM, [1, 2])
    assert engine.generate([], WARM, 0) == []


def test_context_ends_the_completion(tiny_model):
    long = "1" * 500
    completion = _engine(tiny_model).generate([long], Sampling(max_new_tokens=400), 0)[0]
    assert completion.prompt_tokens + completion.completion_tokens <= 512


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=50), st.integers(0, 40_000))
def test_uniform_numbers_are_in_range_and_depend_on_the_row_alone(seeds, step):
    numbers = uniform(np.array(seeds, dtype=np.uint64), step)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert numbers[-1] == uniform(np.array(seeds[-1:], dtype=np.uint64), step)[0]


def test_draws_follow_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, float("-inf")]]).repeat(40_000, 1)
    numbers = torch.from_numpy(uniform(np.arange(40_000, dtype=np.uint64), 5))
    shares = torch.bincount(draw(logits, Sampling(), numbers), minlength=5) / 40_000
    assert torch.allclose(shares, torch.softmax(logits[0], 0), atol=0.01)
    assert shares[4] == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 150), st.floats(0.05, 0.99), st.integers(0, 10_000))
def test_top_p_keeps_the_smallest_sufficient_set(vocabulary, top_p, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, vocabulary, generator=generator) * 3
    numbers = torch.from_numpy(uniform(np.arange(200, dtype=np.uint64), seed))
    drawn = set(draw(logits.repeat(200, 1), Sampling(top_p=top_p), numbers).tolist())
    probabilities, order = torch.softmax(logits[0], 0).sort(descending=True)
    allowed = order[: int((probabilities.cumsum(0) - probabilities < top_p).sum())]
    assert drawn <= set(allowed.tolist())


def test_rows_come_as_they_end_and_their_log_probabilities_are_the_models(tiny_model, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    prompts = [[5, 6, 7, 8 + i] for i in range(12)]
    ends, passes = frozenset(range(10, 40)), []
    monkeypatch.setattr(decoding, "draw", lambda *given: passes.append(1) or draw(*given))
    sampling = Sampling(temperature=0.8, max_new_tokens=30)
    drawn, passes_at = {}, []
    for row, found in write(model, prompts, sampling, range(12), ends, 8, logprobs=True):
        drawn[row] = found
        passes_at.append(len(passes))
    assert passes_at[0] < passes_at[6] < passes_at[-1]
    assert [drawn[i].tokens for i in range(12)] == decode(model, prompts, sampling, range(12), ends, 8)
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + drawn[i].tokens])).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.8).log_softmax(-1)[range(len(drawn[i].tokens)), drawn[i].tokens]
        torch.testing.assert_close(torch.tensor(drawn[i].logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("folder", ["tiny_model", "grouped_model"])
def test_a_llama_is_computed_as_transformers_does(folder, request, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(request.getfixturevalue(folder)).eval()
    prompts = [[5 + i % 3] * (3 + i % 3) for i in range(12)]  # three prompts of unequal length, rows apart
    asked = model, prompts, Sampling(max_new_tokens=40), range(12), frozenset(range(10, 20)), 12, True
    assert Llama.of(model) is not None
    ours = dict(write(*asked))
    monkeypatch.setattr(Llama, "of", lambda model: None)
    for row, theirs in write(*asked):
        assert ours[row].tokens == theirs.tokens
        assert ours[row].logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


def test_a_llama_with_adapters_or_scaled_positions_is_left_to_transformers(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert Llama.of(type(model)(model.config)) is None
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with_adapters = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert Llama.of(with_adapters) is None
    assert Llama.of(with_adapters.get_base_model()) is None
    assert Llama.of(AutoModelForCausalLM.from_pretrained(tiny_model).bfloat16()) is None
