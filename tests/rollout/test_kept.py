"""One engine for several checkpoints of one architecture: it answers as a fresh one, or is replaced."""

import json
import shutil
from unittest import mock

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.rollout import kept as subject
from tasks.rollout.engine import SampledModel
from tasks.rollout.kept import kept_sampler
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.text import open_sampler
from tests.jobs import local_job

PROMPTS, SHORT = ["compute 1 + 2", "compute 3 + 4"], Sampling(max_new_tokens=12)


@pytest.fixture
def other(tiny_model, tmp_path):
    """The tiny model with other weights."""
    folder = shutil.copytree(tiny_model, tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def job(tmp_path):
    return local_job(tmp_path, "evaluation", "evaluate", {})


def texts(sampler):
    return [written.text for written in sampler.generate(PROMPTS, SHORT, 5)]


def test_swapped_weights_answer_as_a_fresh_engine(tiny_model, other, job):
    first = kept_sampler(EngineSettings(), tiny_model, job)
    answers = texts(first)
    second = kept_sampler(EngineSettings(), other, job)
    assert second.engine is first.engine
    assert texts(second) == texts(open_sampler(EngineSettings(), other)) != answers
    assert texts(kept_sampler(EngineSettings(), tiny_model, job)) == answers
    assert texts(kept_sampler(EngineSettings(), tiny_model, job)) == answers  # the same bytes once more


def test_another_architecture_or_other_settings_get_a_new_engine(tiny_model, other, job):
    first = kept_sampler(EngineSettings(), tiny_model, job)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    second = kept_sampler(EngineSettings(), other, job)
    assert second.engine is not first.engine
    third = kept_sampler(EngineSettings(batch_size=3), other, job)
    assert third.engine is not second.engine


def test_an_engine_that_keeps_its_old_weights_is_replaced(tiny_model, other, job, monkeypatch):
    first = kept_sampler(EngineSettings(), tiny_model, job)
    monkeypatch.setattr(first.engine, "load", lambda weights: None)
    second = kept_sampler(EngineSettings(), other, job)
    assert second.engine is not first.engine
    assert texts(second) == texts(open_sampler(EngineSettings(), other))
    assert job.kept[subject._PLACE].engine is second.engine


@pytest.mark.parametrize(("name", "closed"), [("transformers", False), ("vllm-server", True)])
def test_at_the_end_of_the_process_only_what_lies_outside_is_closed(name, closed, tiny_model, monkeypatch):
    """Closing a vLLM in this process takes two seconds, which the next job would wait."""
    engine = mock.Mock()
    monkeypatch.setattr(subject, "open_engine", lambda *_: engine)
    url = {"server_url": "http://127.0.0.1:1"} if name == "vllm-server" else {}
    model = SampledModel(tiny_model, frozenset({0}))
    subject.KeptEngine(EngineSettings(name=name, **url), model).close()
    assert engine.close.called is closed
