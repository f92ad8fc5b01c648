"""A finished run goes on with more steps: which state is kept and taken, and that the result is the same."""

from pathlib import Path

import pytest

from tasks.job import StopRequested
from tasks.kinds import Kind
from tasks.rewards.terms.accuracy import Accuracy
from tasks.rewards.terms.helpful import Helpful
from tasks.rl.continuation import adopt, keep, same_until
from tasks.rl.stage import RLConfig
from tasks.training.checkpoints import checkpoint_step
from tests.jobs import local_job
from tests.rl.test_rl import CONFIG, assert_same_run, finished
from tests.training.test_checkpoints import checkpoint

SHORT = RLConfig(steps=40, mini_batches_per_rollout=4, checkpoint_every=10)
LATE = SHORT.model_copy(update={"rewards": (Accuracy(), Helpful(last_steps=10))})


def job_of(root: Path, name: str, steps: tuple[int, ...] = (), sealed: bool = True):
    """A job of one starting checkpoint, with trainer checkpoints at `steps` and a shard of samples each."""
    job = local_job(root, name, "rl-zero", {"checkpoint": (Kind.checkpoint, root / "base")})
    (job.state / "samples").mkdir(exist_ok=True)
    for step in steps:
        checkpoint(job.state / "trainer", step, sealed)
        (job.state / "samples" / f"{step:06d}.parquet").write_text("rows")
    return job


def adopted(config: RLConfig, root: Path) -> list[int]:
    """The steps of the checkpoints that a new job of `config` begins with."""
    job = job_of(root, f"longer-{config.steps}")
    adopt(config, job)
    return sorted(checkpoint_step(c) for c in (job.state / "trainer").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"steps": 200}, [40]),
        ({"steps": 200, "micro_batch_tokens": 32, "budget_hours": 1.0}, [40]),  # decide no result
        ({"steps": 200, "learning_rate": 1e-5}, []),
        ({"steps": 200, "seed": 7}, []),
        ({"steps": 40}, [40]),
        ({"steps": 20}, []),
    ],
)
def test_only_a_run_that_differs_in_its_steps_goes_on(changes, expected, tmp_path):
    keep(SHORT, job_of(tmp_path, "short", (32, 40)))
    assert adopted(SHORT.model_copy(update=changes), tmp_path) == expected


def test_a_checkpoint_in_the_middle_of_a_rollout_or_torn_is_no_place_to_go_on_from(tmp_path):
    odd = SHORT.model_copy(update={"steps": 42})
    keep(odd, job_of(tmp_path, "odd", (40, 42)))
    assert adopted(odd.model_copy(update={"steps": 80}), tmp_path) == [40]
    torn = SHORT.model_copy(update={"seed": 9})
    keep(torn, job_of(tmp_path, "torn", (40,), sealed=False))
    assert adopted(torn.model_copy(update={"steps": 120}), tmp_path) == []


def test_steps_that_depend_on_the_end_are_not_taken_over(tmp_path):
    assert (same_until(SHORT), same_until(LATE)) == (40, 30)
    assert same_until(SHORT.model_copy(update={"general_last_steps": 15})) == 25
    keep(LATE, job_of(tmp_path, "late", (36, 40)))
    assert adopted(LATE.model_copy(update={"steps": 80}), tmp_path) == []
    other = LATE.model_copy(update={"seed": 3})
    keep(other, job_of(tmp_path, "other", (28, 40)))
    assert adopted(other.model_copy(update={"steps": 80}), tmp_path) == [28]


def test_the_longest_run_is_kept_and_nothing_where_it_is_not_wanted(tmp_path):
    keep(SHORT, job_of(tmp_path, "short", (40,)))
    longer = SHORT.model_copy(update={"steps": 80})
    keep(longer, job_of(tmp_path, "long", (80,)))
    keep(SHORT, job_of(tmp_path, "again", (40,)))
    assert adopted(SHORT.model_copy(update={"steps": 200}), tmp_path) == [80]
    assert len(list((tmp_path / "work" / "finished").iterdir())) == 1
    silent = SHORT.model_copy(update={"keep_state": False, "seed": 5})
    keep(silent, job_of(tmp_path, "silent", (40,)))
    assert len(list((tmp_path / "work" / "finished").iterdir())) == 1


def test_a_job_with_a_checkpoint_of_its_own_keeps_it_and_lineage_is_noted(tmp_path):
    keep(SHORT, job_of(tmp_path, "short", (40,)))
    own = job_of(tmp_path, "own", (12,))
    adopt(SHORT.model_copy(update={"steps": 200}), own)
    assert [c.name for c in (own.state / "trainer").iterdir()] == ["checkpoint-12"]
    fresh = job_of(tmp_path, "fresh")
    adopt(SHORT.model_copy(update={"steps": 200}), fresh)
    assert fresh.headline == {"continued_from_step": 40, "continued_from_key": "short"}
    assert (fresh.state / "samples" / "000040.parquet").read_text() == "rows"


@pytest.fixture(scope="module")
def inputs(checkpoint, problems):
    return {"checkpoint": (Kind.checkpoint, checkpoint), "problems": (Kind.problems, problems)}


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_run_that_was_long_from_the_start(inputs, tmp_path):
    """Past the step (3) at which the reference moves; 5 is no multiple of `checkpoint_every`."""
    short, long = (CONFIG.model_copy(update={"steps": steps}) for steps in (5, 9))
    finished(short, local_job(tmp_path, "short", "rl-zero", inputs))
    longer = finished(long, local_job(tmp_path, "longer", "rl-zero", inputs))
    assert longer.headline["continued_from_step"] == 5
    alone = finished(long, local_job(tmp_path / "elsewhere", "alone", "rl-zero", inputs))
    assert "continued_from_step" not in alone.headline
    assert_same_run(longer, alone)


@pytest.mark.slow
def test_a_spent_budget_stops_at_a_checkpoint_and_a_larger_one_goes_on(inputs, tmp_path):
    config = CONFIG.model_copy(update={"steps": 4, "budget_hours": 0.00028})
    job = local_job(tmp_path, "budget", "rl-zero", inputs)
    (job.folder / "seconds.json").write_text('{"seconds": 2.0}')  # an earlier attempt's
    with pytest.raises(StopRequested, match=r"budget_hours 0.00028 are spent at step 1 of 4; raise it"):
        finished(config, job)
    assert (job.state / "trainer" / "checkpoint-1" / "complete.json").exists()
    finished(config.model_copy(update={"budget_hours": 1.0}), job)
    alone = finished(
        CONFIG.model_copy(update={"steps": 4}), local_job(tmp_path / "x", "alone", "rl-zero", inputs)
    )
    assert_same_run(job, alone)


@pytest.mark.slow
def test_a_hopeless_run_stops_with_the_likely_reasons(inputs, tmp_path):
    config = CONFIG.model_copy(update={"max_completion_length": 2, "futile_rollouts": 2})
    with pytest.raises(RuntimeError, match=r"was 0 in 2 rollouts in a row .* max_completion_length \(2\)"):
        finished(config, local_job(tmp_path, "hopeless", "rl-zero", inputs))
