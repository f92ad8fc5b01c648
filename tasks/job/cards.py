"""Which GPUs a job works on: free ones, held by file locks for as long as its process lives.

So a trainer and an engine never meet on one card, whichever pools, pipelines or workers started them, and a
machine with four cards gives four jobs a card each. The locks lie in `$R1_HOME/cards`. A machine without a
GPU works on `_WITHOUT_GPU` jobs at once, and prefers those that the recipe waits for.

Not Prefect's global concurrency slots: a slot is leased, so a job that was killed keeps its slot for minutes,
and a flow run that was killed gives it back while its job still holds the memory. The kernel frees a lock
exactly when the process is gone.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from tasks.job import StopRequested
from tasks.job.spec import JobSpec
from tasks.recipe import STAGES
from tasks.supervise.records import open_private

_POLL_SECONDS = 0.5
_ASIDE = ("aside-0", "aside-1")
_WITHOUT_GPU = ("processors-0", "processors-1", *_ASIDE)
"""On two cores, no RL job of `tiny` gains from a second torch thread, so workers give each half of them
(`flows.starting`). The last are for what the recipe does not wait for (`step_aside`): two, as one alone
leaves a processor idle whenever it starts or publishes."""


def step_aside(spec: JobSpec) -> None:
    """Let this process and all below it have what others leave of the processors, where all jobs share them
    and this one is `aside`.

    Not by niceness: a thread that often sleeps, as those do that share Python's lock, then still waits for
    the slice of a nicer one to end, and R1-Zero of `tiny` gained nothing from its second processor.
    """
    if has_gpu(os.environ) or not spec.aside:
        return
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):  # a desktop's kernel shares out among sessions first
        Path("/proc/self/autogroup").write_text("19")


@contextmanager
def held(spec: JobSpec, stop: threading.Event, waiting: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """The variables that show the job its cards; nothing for a job of a pool without GPUs.

    One card (one that is free) for a job of one process: with several in sight, the trainers would copy the
    model to all of them in one process, which TRL refuses. All of them for a job of several processes. Set
    the variables before anything uses CUDA.

    Raises:
        StopRequested: the job was asked to stop while it waited.
    """
    if not any(STAGES[build.stage].uses_gpu for build in spec.builds):
        yield {}
        return
    several = any(build.config.get("launch", {}).get("processes", 1) > 1 for build in spec.builds)
    cards = visible_cards(os.environ)
    if not has_gpu(os.environ):
        cards = [card for card in cards if (card in _ASIDE) == spec.aside]
    with ExitStack() as locks:
        for wanted in [[card] for card in cards] if several else [cards]:
            taken = _one_of(wanted, locks, stop, waiting)
        yield {} if several or taken in _WITHOUT_GPU else {"CUDA_VISIBLE_DEVICES": taken}


def visible_cards(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """As CUDA names them: what `CUDA_VISIBLE_DEVICES` lists, or the numbers of this machine's GPUs; else what
    stands for its processors."""
    if listed := environment.get("CUDA_VISIBLE_DEVICES"):
        return [name.strip() for name in listed.split(",")]
    there = [] if listed == "" else [str(n) for n, _ in enumerate(devices.glob("nvidia[0-9]*"))]
    return there or list(_WITHOUT_GPU)  # an empty list hides every GPU


def has_gpu(environment: Mapping[str, str]) -> bool:
    """Whether jobs here have a GPU to work on."""
    return visible_cards(environment) != list(_WITHOUT_GPU)


def _one_of(
    cards: Sequence[str], locks: ExitStack, stop: threading.Event, waiting: Callable[[str], None]
) -> str:
    """The first of these cards that is free, as soon as one is."""
    folder = Path(os.environ.get("R1_HOME") or ".r1") / "cards"
    folder.mkdir(parents=True, exist_ok=True)
    files = {card: locks.enter_context(open_private(folder / f"{card}.lock", "ab")) for card in cards}
    said = False
    while True:
        for card, file in files.items():
            if _locked(file):
                return card
        if not said:
            waiting(f"waits for a free card ({', '.join(cards)} in use by another job)")
            said = True
        if stop.wait(_POLL_SECONDS):
            raise StopRequested("it was waiting for a free card")


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
