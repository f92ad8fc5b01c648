"""From three steps to the whole run."""

import pytest

from tasks.base.stage import BaseConfig
from tasks.estimate import STEPS, ProbeStage, scaled, shortened
from tasks.rewards.terms.accuracy import Accuracy
from tasks.rewards.terms.helpful import Helpful
from tasks.rl.stage import LengthStep, RLConfig

CONFIG = RLConfig(
    steps=3600, group_size=4, questions_per_step=8, max_completion_length=100,
    length_schedule=(LengthStep(step=10, max_completion_length=200),),
    rewards=(Accuracy(), Helpful(last_steps=400)), general_last_steps=400,
)  # fmt: skip


def test_seconds_and_tokens_grow_with_the_steps_and_the_bound_with_the_length():
    probe = ProbeStage(node="r1-zero", config=CONFIG, base=BaseConfig(model="x"))
    means = {"completion_length": 50.0, "generate_s": 1.0, "reward_s": 0.25, "update_s": 0.75, "loss": 9.0}
    found = scaled(probe, means, parameters=10, memory=2**31)
    assert found.tokens == 50 * 32 * 3600
    assert found.seconds_per_step == 2.0
    assert found.hours == pytest.approx(2.0)
    assert found.hours_at_most == pytest.approx(8.0)
    assert (found.node, found.steps, found.parameters, found.memory_gib) == ("r1-zero", 3600, 10, 2.0)


def test_the_probe_needs_no_reward_models():
    short = shortened(CONFIG)
    assert short.steps == STEPS
    assert [t.name for t in short.rewards] == ["accuracy"]
    assert short.general_last_steps is None
    assert RLConfig.model_validate(short.model_dump()) == short
