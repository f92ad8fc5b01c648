"""The tiny pipeline as a user runs it: `r1` in a process, on a port and in folders of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows.daemons import MARK
from tasks.job import Progress
from tasks.presets import preset_name
from tasks.settings import REPOSITORY
from tasks.supervise.trees import is_alive


@dataclass
class Machine:
    """A fresh folder with its own Prefect server; `preset` is what runs there."""

    folder: Path
    preset: str

    def __post_init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ours = {
            "R1_HOME": str(self.home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "DO_NOT_TRACK": "1",
        }
        inherited = {name: value for name, value in os.environ.items() if name not in ("R1_STORE", "R1_WORK")}
        self.environment = inherited | ours

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def work(self) -> Path:
        return self.home / "work"

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore.open(str(self.home / "store"))

    def start(self, *words: str) -> Session:
        """`r1 WORDS` in the background; its output goes to a file."""
        output = self.folder / f"r1-{time.time_ns()}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *words],
                cwd=REPOSITORY, env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        return Session(process, output)

    def prefect(self, *words: str) -> str:
        """`prefect WORDS` as typed in the repository; its output.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refs(self) -> dict[str, Ref]:
        """Node -> its newest artifact."""
        prefix = f"{preset_name(self.preset)}/"
        named = self.store.refs().values()
        return {n.name.removeprefix(prefix): n.ref for n in named if n.name.startswith(prefix)}

    def stored(self) -> dict[str, Ref]:
        """Node -> its artifact in the store, whether or not it got its name."""
        return {manifest.node: manifest.ref for manifest in self.store.objects()}

    def jobs(self) -> set[str]:
        """Every job process there ever was."""
        folder = self.work / "jobs"
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def processes(self) -> set[psutil.Process]:
        """Everything alive that `r1 up` started, with all descendants."""
        marked = {process for process in psutil.process_iter() if self._is_ours(process)}
        below = {child for process in marked for child in _children(process)}
        return set(filter(is_alive, marked | below))

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == str(self.home)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            return False

    def job_folder(self, job: str) -> Path | None:
        """The work folder of the newest job whose name ends in `job`."""
        from tasks.job.spec import JobSpec

        for name in sorted((name for name in self.jobs() if name.endswith(f"-{job}")), reverse=True):
            spec = self.work / "jobs" / name / "spec.json"
            if spec.is_file() and spec.stat().st_size:
                return self.work / JobSpec.model_validate_json(spec.read_bytes()).builds[0].key
        return None

    def progress(self, job: str) -> Progress | None:
        folder = self.job_folder(job)
        return Progress.read(folder) if folder else None

    def kill(self, *sessions: Session) -> set[psutil.Process]:
        """SIGKILL flows, workers, jobs, server and the command at once; what ever lived."""
        victims = self.processes()
        for session in sessions:
            session.process.kill()
            session.process.wait()
        for process in victims:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        return victims

    def lose_prefects_database(self) -> None:
        shutil.rmtree(self.home / "prefect")


@dataclass
class Session:
    """A command under way."""

    process: subprocess.Popen[bytes]
    output: Path

    def wait(self, seconds: float) -> str:
        """Its output, once it has ended with exit code 0."""
        code = self.process.wait(seconds)
        assert code == 0, f"exit code {code}\n{self.output.read_text()}"
        return self.output.read_text()

    def alive(self) -> bool:
        return self.process.poll() is None


def wait_until(condition: Callable[[], bool], seconds: float, session: Session | None = None) -> None:
    """Poll until `condition` holds.

    Raises:
        AssertionError: it did not within `seconds`, or the session ended before.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert session is None or session.alive(), f"it ended early\n{session.output.read_text()}"
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain"
        time.sleep(0.1)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
