"""Jobs as forks of a process that has everything imported, through the process that stands for each."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import starting
from tasks.settings import REPOSITORY
from tasks.supervise import trees

pytestmark = pytest.mark.slow

JOB = '''
import os, sys, time, signal
from pathlib import Path
sys.path.insert(0, {root!r})
from tasks import starter
from tasks.supervise import spares

def import_stages():
    pass

def main(words):
    """`DO FOLDER --parent PID`."""
    do, folder, _, parent = words
    assert os.getppid() == int(parent), (os.getppid(), parent)
    Path(folder, "job.pid").write_text(str(os.getpid()))
    print("job says", os.environ["ANIMAL"], flush=True)
    if do == "sleep":
        time.sleep(600)
    if do == "stop":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        Path(folder, "ready").touch()
        time.sleep(600)
    if do == "child":
        import subprocess
        left = subprocess.Popen(["sleep", "600"])
        Path(folder, "child.pid").write_text(str(left.pid))
    if do == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    sys.exit(int(do) if do.isdigit() else 0)

if sys.argv[1] == "waits":
    from tasks import spare

    spare.import_all, spare.main = import_stages, main
    spare.wait()
    sys.exit()
starter.import_stages, starter.run_job, starter._uses_gpu = import_stages, main, lambda command: True
spares._PROCESS = (__file__, "waits")
starter.main(sys.argv[1], {modules}, "--spares" in sys.argv)
'''
COUNTED = {"R1_STARTER": "x", "PREFECT__FLOW_RUN_ID": "y"}


@pytest.fixture
def environment():
    return os.environ | {"ANIMAL": "goat", "PYTHONPATH": str(REPOSITORY)}


def starter_at(path, folder, environment, *words, modules=()):
    """Its jobs do what their first word says."""
    script = folder / "starter.py"
    script.write_text(JOB.format(root=str(REPOSITORY), modules=modules))
    command = [sys.executable, str(script), path, *words]
    return trees.start_session(command, environment, folder / "starter.txt", stdin=subprocess.PIPE)


@pytest.fixture(params=[[], ["--spares"]], ids=["forks", "spares"])
def server(request, tmp_path, environment):
    (tmp_path / "socket").mkdir()
    path = str(tmp_path / "socket" / "s")
    process = starter_at(path, tmp_path, environment, *request.param)
    waited_for(lambda: Path(path).exists() or trees.has_ended(process))
    yield process, path
    trees.stop(process, 5)


def waited_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begun(path, environment, folder, do, module="tasks.job"):
    command = [sys.executable, "-m", module, do, str(folder)]
    return starting.start(command, environment | {"R1_STARTER": path}, folder / "log.txt")


def pid_in(path: Path) -> psutil.Process:
    waited_for(lambda: path.exists() and path.read_text())
    return psutil.Process(int(path.read_text()))


def is_gone(process: psutil.Process) -> bool:
    return not trees.is_alive(process)


@pytest.mark.parametrize(("do", "code"), [("0", 0), ("4", 4), ("die", -signal.SIGSEGV)])
def test_the_stand_in_ends_as_the_job_does(server, environment, tmp_path, do, code):
    process = begun(server[1], environment | COUNTED, tmp_path, do)
    assert trees.exit_code(process) == code
    trees.stop(process, 1)
    assert (tmp_path / "log.txt").read_text() == "job says goat\n"
    assert int((tmp_path / "job.pid").read_text()) != process.pid


def test_what_a_job_leaves_in_its_group_is_killed(server, environment, tmp_path):
    process = begun(server[1], environment, tmp_path, "child")
    left = pid_in(tmp_path / "child.pid")
    assert trees.exit_code(process) == 0
    waited_for(lambda: is_gone(left))
    trees.stop(process, 1)


def test_a_stop_is_handed_on(server, environment, tmp_path):
    process = begun(server[1], environment, tmp_path, "stop")
    waited_for((tmp_path / "ready").exists)
    process.terminate()
    assert trees.exit_code(process) == 3
    trees.stop(process, 1)


def test_where_the_stand_in_is_killed_the_job_is_too(server, environment, tmp_path):
    process = begun(server[1], environment, tmp_path, "stop")
    job = pid_in(tmp_path / "job.pid")
    process.kill()
    waited_for(lambda: is_gone(job))
    process.wait()


def test_where_its_parent_is_gone_the_job_is_asked_to_stop(server, environment, tmp_path):
    script = (
        "import os, sys, time; from pathlib import Path; from tests.job.test_starter import begun;"
        "folder = Path(sys.argv[2]); begun(sys.argv[1], dict(os.environ), folder, 'stop');"
        "[time.sleep(0.02) for _ in iter((folder / 'ready').exists, True)]; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, server[1], str(tmp_path)], env=environment, check=False)
    job = pid_in(tmp_path / "job.pid")
    waited_for(lambda: is_gone(job))


def test_a_job_notices_that_the_starter_is_gone(server, environment, tmp_path):
    process = begun(server[1], environment, tmp_path, "sleep")
    job = pid_in(tmp_path / "job.pid")
    server[0].kill()
    assert trees.exit_code(process) == -signal.SIGKILL
    trees.stop(process, 1)
    # What `tasks.supervise.watch` looks at. The kernel closes a dying process's sockets before it gives its
    # children to another parent.
    waited_for(lambda: job.ppid() != server[0].pid)
    job.kill()


@pytest.mark.parametrize("asked", [True, False])
def test_nothing_is_left_of_its_socket(server, environment, tmp_path, asked):
    """Asked to end, or whoever started it is gone: then its input ends."""
    starter, path = server
    work = begun(path, environment, tmp_path, "0")
    assert trees.exit_code(work) == 0
    trees.stop(work, 1)
    assert Path(path).exists()
    if asked:
        starter.terminate()
    else:
        starter.stdin.close()
    assert trees.exit_code(starter) == (-signal.SIGTERM if asked else 0)
    assert not Path(path).parent.exists()


def test_modules_that_it_was_told_of_are_run_as_commands(environment, tmp_path):
    path = str(tmp_path / "s")
    process = starter_at(path, tmp_path, environment, modules=["timeit"])
    try:
        waited_for(lambda: Path(path).exists() or trees.has_ended(process))
        words = ["-n", "1", "-r", "1", "import os; print(os.getppid(), os.environ['ANIMAL'])"]
        command = [sys.executable, "-m", "timeit", *words]
        run = starting.start(command, environment | {"R1_STARTER": path}, tmp_path / "log.txt")
        assert trees.exit_code(run) == 0
        trees.stop(run, 1)
    finally:
        trees.stop(process, 5)
    assert (tmp_path / "log.txt").read_text().startswith(f"{process.pid} goat\n1 loop")


def test_several_jobs_at_once(server, environment, tmp_path):
    folders = [tmp_path / str(i) for i in range(3)]
    for folder in folders:
        folder.mkdir()
    jobs = [begun(server[1], environment, folder, "stop") for folder in folders]
    for folder in folders:
        waited_for((folder / "ready").exists)
    for job in jobs:
        job.terminate()
    assert [trees.exit_code(job) for job in jobs] == [3, 3, 3]
    for job in jobs:
        trees.stop(job, 1)


@pytest.mark.parametrize("case", ["other variable", "no job", "no starter"])
def test_otherwise_the_command_is_run_as_it_is(server, environment, tmp_path, case):
    path, module = server[1], "tasks.job"
    if case == "other variable":
        environment = environment | {"OMP_NUM_THREADS": "7"}
    if case == "no starter":
        path = str(tmp_path / "nobody")
    if case == "no job":
        module = "platform"
    process = begun(path, environment, tmp_path, "0", module)
    code = trees.exit_code(process)
    trees.stop(process, 1)
    text = (tmp_path / "log.txt").read_text()
    # `python -m tasks.job 0 FOLDER` itself complains of its arguments; `python -m platform` names the system.
    assert (code, "Linux" in text) == (0, True) if case == "no job" else ("usage" in text) and code == 2


def test_a_spare_that_died_is_replaced(environment, tmp_path):
    from tasks.supervise.spares import SpareProcesses

    spares = SpareProcesses(environment, tmp_path / "spares.txt")
    try:
        spares._waiting[0].kill()
        waited_for(lambda: trees.has_ended(spares._waiting[0]))
        process = spares.start([sys.executable, "-m", "platform"], environment, tmp_path / "log.txt")
        assert trees.exit_code(process) == 0
        trees.stop(process, 1)
        assert "Linux" in (tmp_path / "log.txt").read_text()
        assert not any(trees.has_ended(waiting) for waiting in spares._waiting)
    finally:
        spares.close()


def test_only_jobs_that_use_a_gpu_get_a_spare(tmp_path):
    from tasks import starter

    def command(*stages):
        (tmp_path / "spec.json").write_text(json.dumps({"builds": [{"stage": stage} for stage in stages]}))
        return [sys.executable, "-m", "tasks.job", str(tmp_path / "spec.json")]

    assert starter._uses_gpu(command("problems", "rl-zero"))
    assert not starter._uses_gpu(command("problems", "report"))
    assert not starter._uses_gpu([sys.executable, "-m", "tasks.job", str(tmp_path / "none.json")])


def test_it_refuses_what_a_fork_would_do_differently(monkeypatch):
    from tasks import starter

    made, job = starter.Starter(None, {"A": "1", "PREFECT_X": "2"}, code="now"), ["python", "-m", "tasks.job"]
    monkeypatch.setattr(starter, "code_bytes", lambda: "now")
    assert made._refusal(job, {"A": "1", "R1_STARTER": "s"}) == ""
    assert made._refusal(["python", "-m", "other"], {"A": "1"}) == "not one of its modules: other"
    assert made._refusal(job, {"A": "2", "B": "1"}) == "other variables: A, B"
    monkeypatch.setattr(starter, "code_bytes", lambda: "later")
    assert made._refusal(job, {"A": "1"}).startswith("the code has changed")
