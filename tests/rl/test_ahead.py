"""Rollouts that are generated while the one before is learned from."""

import sys

import pytest

from tasks.rl.ahead import RolloutAhead
from tasks.rl.stage import RLConfig
from tasks.rollout.engine import Completion
from tasks.rollout.engines import ENGINES, EngineEntry
from tasks.rollout.settings import EngineSettings
from tests.jobs import killed_at, local_job
from tests.rl.test_evaluation import EVALUATED, answers, curves, inputs  # noqa: F401  (a fixture)
from tests.rl.test_rl import assert_same_run, finished, metric, samples

ENTRY = EngineEntry("tests.rl.test_evaluation:BesideEngine", own_device=True, free_logprobs=True)
BESIDE = EVALUATED.model_copy(
    update={"engine": EngineSettings.model_construct(name="beside"), "evaluate_every": 3}
)
AHEAD = BESIDE.model_copy(update={"rollout_ahead": True, "steps": 6})


@pytest.fixture(autouse=True, scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINES, "beside", ENTRY)
        yield


def test_it_is_refused_where_the_engine_shares_the_trainers_device_or_groups_are_drawn_again():
    with pytest.raises(ValueError, match=r"set engine\.name to vllm-server and refill_rounds to 0"):
        RLConfig(rollout_ahead=True)
    server = {"name": "vllm-server", "server_url": "http://127.0.0.1:8000"}
    assert RLConfig(rollout_ahead=True, engine=server).rollout_ahead
    with pytest.raises(ValueError, match="rollout_ahead needs"):
        RLConfig(rollout_ahead=True, engine=server, refill_rounds=1)
    assert "rollout_ahead" not in RLConfig().cache_document()


def test_a_checkpoint_holds_it_to_the_bit(tmp_path):
    done = [
        Completion(0, 0, [3, 4], "stop", [-0.1, float("-inf")]),
        Completion(0, 1, [5], "length", [-1 / 3]),
    ]
    assert RolloutAhead.load(tmp_path, 1) is None
    RolloutAhead(4, [[1, 2], [1, 2]], lambda: done).save(tmp_path, 1)
    found = RolloutAhead.load(tmp_path, 1)
    assert found.completions(4, [[1, 2], [1, 2]]) == done
    for step, prompts in ((5, [[1, 2], [1, 2]]), (4, [[1, 2], [1, 3]])):
        with pytest.raises(RuntimeError, match="generated ahead for step 4 is not that of step"):
            found.completions(step, prompts)


@pytest.fixture(scope="module")
def ahead(inputs, tmp_path_factory):  # noqa: F811
    return finished(AHEAD, local_job(tmp_path_factory.mktemp("ahead"), "ahead", "rl-zero", inputs))


@pytest.mark.slow
def test_only_the_first_rollout_is_fresh_and_the_ratio_is_to_the_policy_that_wrote_it(ahead):
    assert metric(ahead, "staleness") == {0: 0.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}
    assert set(metric(ahead, "sampler_mismatch")) == {0}
    assert {row["step"] for row in answers(ahead)} == {0, 3, 6}
    assert {row["step"] for row in samples(ahead)} == set(range(6))


@pytest.mark.slow
@pytest.mark.parametrize("mini_batches", [1, 2])
def test_without_learning_it_is_the_same_run(inputs, tmp_path, mini_batches):  # noqa: F811
    """At this learning rate the weights stay what they are: an older policy is the present one."""
    still = {"learning_rate": 1e-30, "kl_coef": 0.0, "steps": 4, "mini_batches_per_rollout": mini_batches}
    runs = []
    for config in (BESIDE, AHEAD):
        job = local_job(tmp_path / str(config.rollout_ahead), "still", "rl-zero", inputs)
        runs.append(finished(config.model_copy(update=still), job))
    assert samples(runs[0]) == samples(runs[1])
    assert curves(runs[0]) == curves(runs[1])
    assert metric(runs[1], "loss") == pytest.approx(metric(runs[0], "loss"), abs=1e-5)


_STAGE = """
import sys
from pathlib import Path
from tasks.kinds import Kind
from tests.jobs import local_job
from tasks.rollout.engines import ENGINES
from tests.rl.test_ahead import AHEAD, ENTRY
from tests.rl.test_rl import finished
root, checkpoint, problems = map(Path, sys.argv[1:])
inputs = {"checkpoint": (Kind.checkpoint, checkpoint), "problems": (Kind.problems, problems)}
ENGINES["beside"] = ENTRY
finished(AHEAD, local_job(root, "killed", "rl-zero", inputs))
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5])
def test_a_killed_run_goes_on_with_the_rollout_it_had_begun(ahead, inputs, tmp_path, step):  # noqa: F811
    """1 is before the first checkpoint; at 5 the run resumes from 4, whose rollout step 3's weights wrote."""
    command = [sys.executable, "-c", _STAGE, str(tmp_path), *(str(path) for _, path in inputs.values())]
    mark = tmp_path / "work" / "killed" / "state" / "samples" / f"{step:06d}.parquet"
    killed_at(command, mark)
    job = finished(AHEAD, local_job(tmp_path, "killed", "rl-zero", inputs))
    assert_same_run(job, ahead)
    assert curves(job) == curves(ahead)


@pytest.mark.slow
def test_a_longer_run_goes_on_from_before_the_end(ahead, inputs):  # noqa: F811
    longer = AHEAD.model_copy(update={"steps": 8})
    whole = finished(longer, local_job(ahead.folder.parents[2] / "alone", "alone", "rl-zero", inputs))
    job = finished(longer, local_job(ahead.folder.parents[1], "longer", "rl-zero", inputs))
    assert job.headline["continued_from_step"] == 4
    assert_same_run(job, whole)
