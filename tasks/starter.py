"""Starts processes that have everything imported: one process imports, and each of them is a fork of it.

    python -m tasks.starter SOCKET [MODULE...]        jobs, and commands `python -m MODULE` of these modules
    python -m tasks.starter SOCKET --spares           jobs of a machine with a GPU

A job imports torch, transformers and TRL, 6 to 9 s on two cores, and a flow run imports Prefect, 3 s; `tiny`
has fifteen of each. The starter imports them once, beside a worker (`flows.workers`). Who wants a job starts
`tasks/supervise/stand_in.py` with the job's command. The stand-in asks the starter, and is the job's process
for its parent: it has the job's exit code, hands on SIGTERM, and where it is killed, the job is killed.

The starter refuses what a fork of it would do differently from a new process, and the stand-in then becomes
the process of the command in the usual way: other code than it has imported, other variables than it was
started with (libraries read them while they are imported), another module.

On a machine with a GPU a fork could not use CUDA if anything that was imported had touched it. So there a
job that uses a GPU gets a process of its own that was started before and has imported everything, vLLM too
(`--spares`, `tasks.supervise.spares`); other jobs, which import little, and flow runs start as they are.

It ends at the end of its input, and its jobs stop, as when whoever started them is gone.
The socket's folder is the starter's alone. It removes it when it ends, as whoever made it may have been
killed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tasks.job.__main__ import main as run_job
from tasks.recipe import STAGES
from tasks.rewards.language import load_dictionary
from tasks.source_code import code_bytes
from tasks.spare import import_stages
from tasks.supervise.records import read_json
from tasks.supervise.spares import SpareProcesses
from tasks.supervise.stand_in import read_request

log = logging.getLogger(__name__)

JOB = "tasks.job"
_PER_RUN = ("PREFECT_", "R1_STARTER")
"""Beginnings of the names of variables that differ from run to run; no job asks for them."""


@dataclass
class Forked:
    """A job at work, for the stand-in at the other end of `asker`."""

    pid: int
    ended: int
    """Readable once the process has ended (`os.pidfd_open`)."""
    asker: socket.socket
    process: subprocess.Popen[bytes] | None
    """Of a spare process; `subprocess` would reap one that nothing refers to."""


@dataclass
class Starter:
    """Forks a process for each request; `serve` returns in it, with the module that it runs and its words.
    With `spares` a process that waits does the job, and `serve` returns at the end only."""

    listening: socket.socket
    environment: Mapping[str, str]
    modules: Collection[str] = (JOB,)
    spares: SpareProcesses | None = None
    code: str = field(default_factory=code_bytes)
    _jobs: list[Forked] = field(default_factory=list)

    def serve(self) -> list[str] | None:
        """Module and words, in the process that was forked for them; nothing at the end of the input."""
        with selectors.DefaultSelector() as events:
            events.register(sys.stdin, selectors.EVENT_READ)
            events.register(self.listening, selectors.EVENT_READ)
            while True:
                for key, _ in events.select():
                    if key.fileobj is sys.stdin:
                        return None
                    if key.fileobj is self.listening:
                        words = self._accept(events)
                        if words is not None:
                            return words
                    elif key.fd == key.data.ended:
                        self._end(key.data, events)
                        break  # the other events may be of the same job
                    else:
                        self._hear(key.data)

    def _accept(self, events: selectors.BaseSelector) -> list[str] | None:
        asker, _ = self.listening.accept()
        try:
            command, environment, streams = read_request(asker)
        except (OSError, ValueError) as error:
            log.warning("a request was not understood: %s", error)
            asker.close()
            return None
        if refusal := self._refusal(command, environment):
            log.info("not started: %s", refusal)
            _answer(asker, streams, refusal)
            asker.close()
            return None
        process = self._spare(command, streams[0])
        pid = process.pid if process else os.fork()
        if pid == 0:
            self._forget(events)
            asker.close()
            _become(environment, streams)
            return list(command[command.index("-m") + 1 :])
        _answer(asker, streams)
        job = Forked(pid, os.pidfd_open(pid), asker, process)
        self._jobs.append(job)
        events.register(job.ended, selectors.EVENT_READ, job)
        events.register(job.asker, selectors.EVENT_READ, job)
        return None

    def _spare(self, command: Sequence[str], output: int) -> subprocess.Popen[bytes] | None:
        """The process that waited and now does the job, if this starter has such ones. A stand-in's output is
        the job's log."""
        if self.spares is None:
            return None
        log_file = Path(os.readlink(f"/proc/self/fd/{output}"))
        return self.spares.start([*command, *_child_of(os.getpid())], self.environment, log_file)

    def _refusal(self, command: Sequence[str], environment: Mapping[str, str]) -> str:
        """Why it must be a new process; empty where it may be forked or a spare may do it."""
        module = dict(pairwise(command)).get("-m", "")
        if module not in self.modules:
            return f"not one of its modules: {module or command}"
        if code_bytes() != self.code:
            return "the code has changed since the starter imported it"
        if self.spares and not _uses_gpu(command):
            return "a job without a GPU imports little"
        mine, asked = _lasting(self.environment), _lasting(environment)
        other = sorted(name for name in mine.keys() | asked.keys() if mine.get(name) != asked.get(name))
        return f"other variables: {', '.join(other)}" if other else ""

    def _end(self, job: Forked, events: selectors.BaseSelector) -> None:
        """Kill what the job left in its group, and tell its stand-in how it ended."""
        ended = os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it had no group of its own yet
            os.killpg(job.pid, signal.SIGKILL)
        os.waitpid(job.pid, 0)
        with contextlib.suppress(BrokenPipeError):
            job.asker.sendall(json.dumps({"code": code}).encode() + b"\n")
        for watched in (job.ended, job.asker):
            events.unregister(watched)
        os.close(job.ended)
        job.asker.close()
        self._jobs.remove(job)

    def _hear(self, job: Forked) -> None:
        """A stand-in hands on SIGTERM as a byte; where it is gone, it was killed."""
        with contextlib.suppress(ConnectionResetError):
            if job.asker.recv(1):
                os.kill(job.pid, signal.SIGTERM)
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)

    def _forget(self, events: selectors.BaseSelector) -> None:
        """In the job: nothing of the starter stays open."""
        events.close()
        self.listening.close()
        for job in self._jobs:
            os.close(job.ended)
            job.asker.close()


def _answer(asker: socket.socket, streams: Sequence[int], refusal: str = "") -> None:
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(BrokenPipeError):  # it is heard of as the end of its connection
        asker.sendall(json.dumps({"refusal": refusal}).encode() + b"\n")


def _uses_gpu(command: Sequence[str]) -> bool:
    """Whether the spec of `python -m tasks.job SPEC` has a build that does."""
    spec = read_json(Path(command[command.index("-m") + 2]))
    return spec is not None and any(STAGES[build["stage"]].uses_gpu for build in spec["builds"])


def _child_of(starter: int) -> list[str]:
    """What a job is told of its parent: the starter, as the stand-in looks for whoever wanted the job."""
    return ["--parent", str(starter)]


def _lasting(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_PER_RUN)}


def _become(environment: Mapping[str, str], streams: Sequence[int]) -> None:
    """What `trees.start_session` gives a process: a session, its streams, its variables."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    os.umask(0o077)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for place, stream in enumerate((nothing, *streams)):
        os.dup2(stream, place)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)


def main(path: str, modules: Sequence[str] = (), spares: bool = False) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    starter = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() == starter:  # and not a job that was forked a moment ago
            _remove(path)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    environment, waiting = dict(os.environ), None
    if spares:
        log_file = Path(os.readlink("/proc/self/fd/2"))
        waiting = SpareProcesses(environment, log_file)
    else:
        import_stages()
        for module in modules:
            importlib.import_module(module)
        load_dictionary()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        forked = Starter(listening, environment, (JOB, *modules), waiting).serve()
    if waiting:
        waiting.close()
    if forked is None:
        _remove(path)
    else:
        run(*forked)


def _remove(path: str) -> None:
    """The socket and its folder, where nothing else is in it."""
    Path(path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        Path(path).parent.rmdir()


def run(module: str, *words: str) -> None:
    """What `python -m MODULE WORDS` does."""
    for handler in logging.getLogger().handlers[:]:
        logging.getLogger().removeHandler(handler)  # it sets up its own
    if module == JOB:
        run_job([*words, *_child_of(os.getppid())])
        return
    sys.argv = [module, *words]
    warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)  # it was imported, yes
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def command_line() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.starter", description=__doc__)
    parser.add_argument("path")
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--spares", action="store_true")
    main(**vars(parser.parse_args()))


if __name__ == "__main__":
    command_line()
