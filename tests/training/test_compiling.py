"""Compiled layers compute what the plain ones do. The compiler itself is that of GPUs and not tried:
torch traces the layers with their gradients and runs what it found."""

import copy
from functools import partial

import pytest
import torch
from pydantic import ValidationError
from trl.trainer.utils import add_fused_lm_head

from tasks.rl import packing
from tasks.rl.packing import Rows
from tasks.rl.stage import RLConfig
from tasks.rollout.settings import EngineSettings
from tasks.training.models import compile_layers, load_policy


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_log_probabilities_and_gradients_are_those_of_the_plain_layers(recompute, tiny_model, monkeypatch):
    compiled = []
    real = torch.compile

    def traced(function, **given):
        compiled.append(given)
        return real(function, backend="aot_eager", **given)

    monkeypatch.setattr(torch, "compile", traced)
    plain = load_policy(tiny_model).train()
    model = copy.deepcopy(plain)
    compile_layers(model, recompute)
    assert compiled == [{"dynamic": True}] * plain.config.num_hidden_layers
    for lengths in ((3, 5), (9, 2, 7), (4,)):  # packs of different lengths
        rows = Rows.from_lists([[5, 6, 7]] * len(lengths), [list(range(8, 8 + n)) for n in lengths])
        found = []
        for each in (plain, model):
            each.zero_grad()
            if not hasattr(each, "has_head"):
                add_fused_lm_head(each, outputs=("log_probs", "entropy"))
                each.has_head = True
            scores, _ = packing.score(each, packing.pack(rows, range(len(lengths))), torch.device("cpu"))
            scores.sum().backward()
            with torch.no_grad():  # as the old policy is scored
                again, _ = packing.score(each, packing.pack(rows, range(len(lengths))), torch.device("cpu"))
            torch.testing.assert_close(again, scores.detach())
            found.append([scores.detach(), *(p.grad for p in each.parameters())])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


def test_the_trained_model_itself_cannot_sample_with_compiled_layers():
    compiled = partial(RLConfig, compile_layers=True)
    with pytest.raises(ValidationError, match="engine transformers samples from the trained model itself"):
        compiled()
    assert compiled(engine=EngineSettings(name="vllm")).compile_layers
