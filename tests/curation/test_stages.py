"""Cold start and rejection sampling as stages, on a small model that was really taught to answer."""

import pytest

from artifacts.tables import read_table, write_table
from tasks.cold_start import curate as cold_start
from tasks.cold_start.stage import ColdStartConfig
from tasks.kinds import Kind
from tasks.problem import Problem, to_table
from tasks.rejection_sampling import mixture as rejection_sampling
from tasks.rejection_sampling.general import General
from tasks.rejection_sampling.stage import RejectionSamplingConfig
from tasks.rendering import parse_completion, render_prompt
from tasks.rollout.settings import Sampling
from tasks.tables import PROBLEMS as PROBLEMS_TABLE
from tests.jobs import local_job

SHORT = Sampling(max_new_tokens=32)


def _math(i, language="en", split="train"):
    prompt = f"compute {i} + 1" if language == "en" else f"计算 {i} + 1"
    return Problem(f"{language}{i}", "math", language, prompt, str(i + 1), "math", split=split)


def _general(i):
    args = {"set": "helpfulness", "must": ["hello"]} | ({"thinking": "ok"} if i else {})
    return Problem(f"g{i}", "general", "en", f"hello {i}", "hello tom", "rubric", args)


PROBLEMS = [
    *[_math(i) for i in range(8)],
    *[_math(i, "zh") for i in range(8)],
    _math(8, split="held_out"),
    *[_general(i) for i in range(6)],
]


def _inputs(tmp_path, model):
    for name in ("checkpoint", "problems"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint" / "model").symlink_to(model)
    write_table(tmp_path / "problems" / "problems.parquet", to_table(PROBLEMS), PROBLEMS_TABLE)
    return {
        "checkpoint": (Kind.checkpoint, tmp_path / "checkpoint"),
        "problems": (Kind.problems, tmp_path / "problems"),
    }


@pytest.fixture(scope="module")
def taught_model(tiny_model, tmp_path_factory):
    """The tiny model after a few seconds on worked sums: often right, in English whatever the question."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (c.from_pretrained(tiny_model) for c in (AutoModelForCausalLM, AutoTokenizer))
    texts = [
        render_prompt("plain", p.prompt)
        + f" <think> first {p.prompt[-5:]} = {p.answer} </think> <answer> {p.answer} </answer>"
        + tokenizer.eos_token
        for p in PROBLEMS
        if p.domain == "math"
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("taught")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_that_knows_nothing_gives_the_counts(tmp_path, tiny_model):
    job = local_job(tmp_path, "cold-start", "cold-start", _inputs(tmp_path, tiny_model))
    with pytest.raises(ValueError, match=r"cold start: none of 8 candidates passed \(.*unparseable \d"):
        cold_start.run(
            ColdStartConfig(template="plain", problems=4, samples_per_problem=2, sampling=SHORT), job
        )


@pytest.mark.slow
def test_cold_start(tmp_path, taught_model):
    job = local_job(tmp_path, "cold-start", "cold-start", _inputs(tmp_path, taught_model))
    config = ColdStartConfig(template="plain", samples_per_problem=4, sampling=SHORT, refiner="lexicon")
    cold_start.run(config, job)
    samples, sft, rejected = (read_table(job.draft / n) for n in ("samples", "sft", "rejected"))
    assert samples.num_rows == 64 == sft.num_rows + rejected.num_rows
    assert funnel_adds_up(job)[-1]["rows"] == sft.num_rows
    assert len(set(sft["problem_id"].to_pylist())) == sft.num_rows == job.headline["kept"]
    answers = {p.id: p.answer for p in PROBLEMS}
    rows = sft.to_pylist()
    assert all(parse_completion(r["completion"]).answer == answers[r["problem_id"]] for r in rows)
    chinese = [r for r in rows if r["language"] == "zh"]
    assert chinese
    assert all("先算" in r["completion"] and "first" not in r["completion"] for r in chinese)
    assert job.headline["refined"] == len(chinese)
    assert job.headline["kept_math"] == len(rows)


@pytest.mark.slow
def test_rejection_sampling(tmp_path, taught_model):
    job = local_job(tmp_path, "mixture", "rejection-sampling", _inputs(tmp_path, taught_model))
    config = RejectionSamplingConfig(
        template="plain", samples_per_problem=8, keep_per_problem=2, general_share=0.25, sampling=SHORT
    )
    rejection_sampling.run(config, job)
    sft = read_table(job.draft / "sft").to_pylist()
    reasoning, general = ([r for r in sft if (r["domain"] == "general") is g] for g in (False, True))
    assert {r["language"] for r in reasoning} == {"en"}  # it thinks in English: Chinese questions are dropped
    assert len(general) == min(6, round(len(reasoning) / 3))
    assert general[0]["source"] == "reference"
    assert general[0]["prompt"].startswith("User: hello")
    assert " <answer> hello tom </answer>" in general[0]["completion"]
    assert "en8" not in {r["problem_id"] for r in sft}
    reasons = read_table(job.draft / "rejected")["reason"].to_pylist()
    assert reasons.count("mixed-language") == job.headline["rejected_mixed-language"] > 0
    assert len(reasons) + len(reasoning) == 128 == job.headline["samples"]
    assert funnel_adds_up(job)[0]["rows"] == 128
    assert job.headline["samples_math"] == len(reasoning)
    assert 5 < job.headline["mean_tokens_general"] < job.headline["mean_tokens_math"] < 32


def funnel_adds_up(job):
    """The rows of the stage's funnel, after a check that each step's rows in are kept and dropped ones."""
    rows = read_table(job.draft / "funnel.parquet").to_pylist()
    steps = {row["step"]: [] for row in rows}
    for row in rows:
        steps[row["step"]].append(row["rows"])
    assert all(first == sum(others) for first, *others in steps.values())
    return rows


def test_general_data_must_exist(tmp_path):
    problems = [_math(1), Problem("g", "general", "en", "hello", "", "rubric", {"set": "helpfulness"})]
    nothing = General((), 1, frozenset())
    with pytest.raises(ValueError, match="no general training problem has a reference"):
        rejection_sampling.general_offered(problems, nothing, RejectionSamplingConfig())
    config = RejectionSamplingConfig(general_share=0)
    assert rejection_sampling.general_offered(problems, nothing, config) == []
