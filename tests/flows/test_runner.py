"""Jobs as real processes: killed, cancelled, orphaned, raced."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from artifacts.keys import cache_key
from artifacts.store import ArtifactStore
from flows import paths, runner
from tasks.job.spec import BuildSpec, JobExit, JobSpec
from tasks.settings import REPOSITORY
from tasks.supervise import trees
from tasks.supervise.trees import is_alive

pytestmark = pytest.mark.slow

ENTRY = "tests.flows.job_entry"


def spec_of(**config) -> JobSpec:
    key = cache_key("count", 1, config, {})
    build = BuildSpec(node="n", stage="count", config=config, inputs={}, key=key, ref_name="test/n")
    return JobSpec(work_root=paths.work_root(), preset="test", builds=(build,))


def run(spec: JobSpec, on_progress=lambda progress: None) -> JobExit:
    return runner.run_job(spec, on_progress, module=ENTRY)


def state(spec: JobSpec) -> Path:
    return spec.work_root / spec.builds[0].key / "state"


def starts(spec: JobSpec, store: ArtifactStore) -> list[int]:
    """The step at which each process that worked on the artifact began."""
    return [int(line) for line in (store.fetch(store.get_ref("test/n")) / "starts").read_text().split()]


def job_process() -> psutil.Process:
    (job,) = [p for p in psutil.Process().children() if ENTRY in p.cmdline()]
    return job


def wait_until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_killed_job_is_started_again_and_resumes(store):
    spec, killed = spec_of(steps=30), []

    def kill_once(progress):
        if progress.done >= 3 and not killed:
            killed.append(progress.done)
            job_process().kill()

    assert run(spec, kill_once).status == "ok"
    first, second = starts(spec, store)
    assert first == 0
    assert killed[0] <= second < 30
    assert not state(spec).parent.exists()


def test_a_death_is_noticed_at_once(store):
    spec = spec_of(steps=10_000)
    with runner.started(spec, ENTRY) as job:
        wait_until(lambda: (state(spec) / "step").exists())
        os.kill(job.process.pid, signal.SIGKILL)
        began = time.monotonic()
        assert runner._wait(job, spec, lambda progress: None) == "was killed by SIGKILL"
        assert time.monotonic() - began < 3


def test_a_job_that_dies_every_time_is_given_up_with_its_log(store):
    with pytest.raises(
        runner.JobFailed, match=r"^n: the job was killed by SIGKILL, 2 times; its log is /"
    ) as e:
        run(spec_of(die_at=2))
    log = Path(str(e.value).rpartition("its log is ")[2])
    assert log.name == "log.txt"
    assert log.is_file()


def test_a_job_that_gets_further_before_each_death_is_started_again_and_again(store):
    spec = spec_of(steps=10, die_after=3)
    assert run(spec).status == "ok"
    assert starts(spec, store) == [0, 3, 6, 9]


def test_a_job_that_lost_a_service_is_started_again(store):
    spec = spec_of(steps=10, lose_at=4)
    assert run(spec).status == "ok"
    assert starts(spec, store) == [0, 4]


def test_a_failing_stage_is_not_tried_again(store):
    spec = spec_of(fail_at=4)
    with pytest.raises(runner.JobFailed, match=r"^n: step 4: the loss is not a number \(log: /"):
        run(spec)
    assert (state(spec) / "starts").read_text() == "0\n"
    assert store.get_ref("test/n") is None


def test_a_cancelled_job_writes_its_checkpoint_and_leaves_no_process(store):
    spec, seen = spec_of(steps=10_000, helper=True), []

    def cancel(progress):
        seen[:] = [job_process(), psutil.Process(int((state(spec) / "helper").read_text()))]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, cancel)
    assert [is_alive(process) for process in seen] == [False, False]
    record = JobExit.read(next((spec.work_root / "jobs").iterdir()) / "exit.json")
    assert (record.status, record.reason) == ("stopped", "asked to stop (SIGTERM)")
    reached = int((state(spec) / "step").read_text())
    assert reached < 10_000
    assert not store.backend.held_leases()


def test_a_deaf_job_is_killed(store):
    spec = spec_of(steps=10_000, helper=True, deaf=True)
    with runner.started(spec, ENTRY) as job:
        wait_until(lambda: (state(spec) / "step").exists())
        helper = psutil.Process(int((state(spec) / "helper").read_text()))
        trees.stop(job.process, seconds=1)
    assert job.process.returncode == -signal.SIGKILL
    assert not is_alive(helper)


def test_a_job_whose_supervisor_was_killed_stops_by_itself_and_resumes_later(store):
    spec = spec_of(steps=60)
    supervisor = subprocess.Popen(
        [sys.executable, "-c", "import sys; from flows.runner import run_job; "
         "from tasks.job.spec import JobSpec; "
         f"run_job(JobSpec.model_validate_json(sys.argv[1]), lambda p: None, module={ENTRY!r})",
         spec.model_dump_json()]
    )  # fmt: skip
    wait_until(lambda: (state(spec) / "step").exists())
    (job,) = psutil.Process(supervisor.pid).children()
    supervisor.kill()
    supervisor.wait()
    job.wait(10)
    (folder,) = (spec.work_root / "jobs").iterdir()
    assert JobExit.read(folder / "exit.json").reason == "the process that started this job is gone"
    reached = int((state(spec) / "step").read_text())
    assert run(spec).status == "ok"
    assert starts(spec, store) == [0, reached]


def test_two_runs_of_one_key_build_once(store):
    spec, records = spec_of(steps=20), []
    racers = [threading.Thread(target=lambda: records.append(run(spec))) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert sorted(record.results[0].cached for record in records) == [False, True]
    assert starts(spec, store) == [0]
    assert len(store.digests()) == 1


def test_credentials_reach_no_file_of_a_job(store, monkeypatch):
    """The store's address may hold some, and Prefect's string is nothing that a job needs."""
    monkeypatch.setenv("R1_STORE", "memory://user:s3cr3t@bucket/r1")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "r1:s3cr3t")
    environment = runner.job_environment()
    assert environment["R1_STORE"] == "memory://user:s3cr3t@bucket/r1"
    assert "PREFECT_API_AUTH_STRING" not in environment
    with runner.started(spec_of(steps=1), ENTRY) as job:
        wait_until(lambda: trees.has_ended(job.process))
    files = [path for path in job.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"spec.json", "log.txt"}
    assert not [path for path in files if "s3cr3t" in path.read_text()]


def test_what_a_job_writes_is_its_users_own(store):
    spec = spec_of(steps=10_000)
    with runner.started(spec, ENTRY):
        wait_until(lambda: (state(spec).parent / "progress.json").exists())
        written = [*spec.work_root.rglob("*")]
        assert {"log.txt", "progress.json", "state"} <= {path.name for path in written}
        inside = [path for path in written if path.is_file() and not path.name.startswith(".")]
        assert [path for path in inside if path.stat().st_mode & 0o077] == []


ENCODING = """
import os
from pathlib import Path
from tasks.tokenizer import Codec, load_tokenizer
tokenizer = load_tokenizer(Path("tasks/tiny_world/weights/tiny-base"))
threads = len(os.listdir("/proc/self/task"))
Codec(tokenizer).completions([str(number) for number in range(64)])
print(len(os.listdir("/proc/self/task")) - threads)
"""


def test_a_job_reads_texts_with_the_threads_of_the_tokenizer(monkeypatch):
    """Not with one processor of many: 800,000 rows of fine-tuning would take hours."""
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)  # the tests' own setting
    started = subprocess.check_output(
        [sys.executable, "-c", ENCODING], env=runner.job_environment(), cwd=REPOSITORY, text=True
    )
    assert int(started) >= 1
