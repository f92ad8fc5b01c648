"""One machine's story in order: killed in training, restarted, run again, cancelled, down, database lost.

    python -m pytest -m e2e -x                             the tiny preset, every stage shortened
    R1_E2E_PRESET=tiny python -m pytest -m e2e -x          another one

What is tested is that nothing is lost or done twice, so a few updates and samples of every stage are enough.
Each test goes on from the one before.
"""

import os
import re
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from artifacts.tables import read_table
from flows.graph import load_pipeline
from tasks.presets import CONFIGS, preset_name
from tasks.supervise.trees import is_alive
from tasks.training.checkpoints import checkpoint_step, is_sealed
from tests.e2e.machine import Machine, wait_until

pytestmark = pytest.mark.e2e

SCRATCH = tempfile.TemporaryDirectory(prefix="r1-e2e-")
"""Removed when Python ends."""


def shortened() -> str:
    """A preset file: tiny with two checkpoints of R1-Zero, and little of everything else."""
    document = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
    document["r1-zero"] |= {"steps": 20, "checkpoint_every": 10, "evaluate_every": 10, "evaluate_problems": 2}
    for node, steps in (("dev2", 4), ("r1", 24), ("student-rl-only", 4)):
        document[node] |= {"steps": steps, "questions_per_step": 4, "evaluate_every": 0}
    document["mixture"]["problems"] = 200
    document["reward-models"]["prompts"] = 200
    document["evaluation"] |= {"problems_per_domain": 10, "samples_per_problem": 2}
    path = Path(SCRATCH.name) / "tiny-shortened.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return str(path)


PRESET = os.environ.get("R1_E2E_PRESET") or shortened()
PIPELINE = load_pipeline(PRESET)
NODES = list(PIPELINE.feeds)
A_RUN, A_RERUN = 45 * 60.0, 10 * 60.0
"""Seconds after which a run counts as hanging. `benchmarks/pipeline.py` measures how long one takes."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("machine"), PRESET)
    yield machine
    machine.start("down").wait(60)


def sealed_steps(machine: Machine) -> list[int]:
    """Steps of R1-Zero's complete checkpoints."""
    folder = machine.job_folder("r1-zero")
    found = folder.glob("state/trainer/checkpoint-*") if folder else ()
    return sorted(checkpoint_step(path) for path in found if is_sealed(path))


def steps_since(machine: Machine, moment: float) -> int:
    """Where R1-Zero's training stands, by a record written after `moment`; 0 without one."""
    record = machine.progress("r1-zero")
    return record.done if record and record.at > moment else 0


def words(output: str, state: str) -> list[str]:
    """The nodes that the output calls `reused` or `made`."""
    return re.findall(rf"^{state}\s+(\S+)", output, re.MULTILINE)


def test_a_run_killed_in_training_goes_on_from_its_checkpoint(machine):
    first = machine.start("run", "--preset", PRESET)
    wait_until(lambda: bool(sealed_steps(machine)), 300, first)
    victims = machine.kill(first)
    assert len(victims) >= 5  # server, workers, two flows, job
    wait_until(lambda: not any(map(is_alive, victims)), 15)
    # Read only now that all are dead: an evaluation that runs beside R1-Zero may end at any moment before.
    done, before, checkpoint = machine.stored(), machine.jobs(), sealed_steps(machine)[-1]
    assert {"problems", "base"} <= set(done)

    restarted = time.time()
    again = machine.start("run", "--preset", PRESET)
    wait_until(lambda: steps_since(machine, restarted) > 0, 180, again)
    assert steps_since(machine, restarted) > checkpoint  # no step before it was trained again
    assert machine.jobs() > before
    output = again.wait(A_RUN)

    refs = machine.refs()
    assert set(NODES) <= set(refs)
    assert {node: refs[node] for node in done} == done
    assert set(words(output, "reused")) == set(done)
    assert set(words(output, "made")) == set(NODES) - set(done)
    assert "R1-Zero" in output
    report = re.search(r"^r1: report: (\S+)", output, re.MULTILINE)
    assert report


def test_every_training_step_was_sampled_once(machine):
    config = PIPELINE.node("r1-zero").config
    samples = read_table(machine.store.fetch(machine.refs()["r1-zero"]) / "samples.parquet")
    counts = samples.group_by("step").aggregate([("problem_id", "count")]).to_pydict()
    assert sorted(counts["step"]) == list(range(config.steps))
    assert set(counts["problem_id_count"]) == {config.batch_size}


def test_a_second_run_reuses_every_stage_and_says_so(machine):
    refs, jobs = machine.refs(), machine.jobs()
    output = machine.start("run", "--preset", PRESET).wait(A_RERUN)
    assert words(output, "reused") == NODES
    assert f"{len(NODES)} of {len(NODES)} nodes were reused" in output
    assert (machine.refs(), machine.jobs()) == (refs, jobs)


def test_a_stage_alone_is_reused_by_the_literal_command(machine):
    jobs = machine.jobs()
    for name in ("rl-zero", "rl-zero/rl-zero"):
        output = machine.prefect("deployment", "run", name, "--param", f"preset={PRESET}", "--watch")
        assert "finished successfully" in " ".join(output.split())
    assert machine.jobs() == jobs


def test_a_cancelled_run_leaves_no_process_behind(machine):
    refs, idle = machine.refs(), machine.processes()
    settings = ["--param", f"preset={PRESET}", "--param", 'config={"seed": 99}']
    output = machine.prefect("deployment", "run", "rl-zero", *settings)
    run = re.search(r"UUID: ([0-9a-f-]{36})", output)
    assert run
    jobs = machine.jobs()
    wait_until(lambda: machine.jobs() > jobs, 60)
    wait_until(lambda: steps_since(machine, 0) > 0, 90)
    assert machine.processes() - idle  # of those that were there, one that was about to end may be gone
    machine.prefect("flow-run", "cancel", run[1])
    wait_until(lambda: machine.processes() <= idle, 60)
    assert machine.refs() == refs


def test_the_server_met_no_locked_database(machine):
    log = (machine.home / "logs" / "server.log").read_text(errors="replace")
    assert "Prefect" in log
    assert "database is locked" not in log


def test_down_leaves_no_process(machine):
    ours = machine.processes()
    assert len(ours) >= 2
    output = machine.start("down").wait(60)
    assert re.search(r"stopped \d+ processes", output)
    assert machine.processes() == set()
    assert not any(map(is_alive, ours))


def test_results_outlive_prefects_database(machine):
    machine.lose_prefects_database()
    output = machine.start("run", "--preset", PRESET).wait(A_RERUN)
    assert words(output, "reused") == NODES
    machine.start("down").wait(60)
    assert machine.processes() == set()


def test_the_lineage_of_r1_reaches_base_and_problems(machine):
    output = machine.start("lineage", f"{preset_name(PRESET)}/r1").wait(60)
    for node in ("r1", "dev3", "mixture", "dev2", "dev1", "cold-start", "r1-zero", "base", "problems"):
        assert f"{node} (" in output
