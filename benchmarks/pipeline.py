"""What a whole run costs: seconds, memory, and everything that is not a job at work.

    python -m benchmarks.pipeline                       the tiny preset, from nothing, in a temporary folder
    python -m benchmarks.pipeline --preset my.yaml --folder /data/bench

Runs `r1 run` twice on a server and folders of its own and prints, with the limits that the project sets
itself: total seconds, peak memory of all processes together (PSS, sampled every 2 s), orchestration
seconds a stage (from the time its inputs are there to its end, less the seconds its job was at work; starting
the job's Python counts as orchestration), the cached re-run, and the import of `flows` beyond Prefect's.
On a machine that is busy with other things the numbers mean nothing: the load is printed too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import psutil

from artifacts.store import ArtifactStore
from flows import services
from flows.daemons import MARK
from tasks.recipe import goes_on_without
from tasks.settings import REPOSITORY

MIB = 2**20
_SAMPLED_EVERY = 2.0
"""Seconds. A sample reads the page tables of all processes; every 0.5 s it took a third of a processor."""
IMPORTS = """
import time
from prefect import flow, task
began = time.perf_counter()
import flows.r1_full_pipeline, flows.stage_flows
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Run:
    """One `r1 run`, by the clock of its output."""

    began: float
    submitting: float
    submitted: float
    ended: float
    flow_run: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass
class Memory:
    """Samples the proportional memory of everything that carries the home's mark, and of `r1` itself."""

    home: Path
    peak: float = 0.0
    at_peak: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLED_EVERY):
            now = dict(_memory(process) for process in _family(self.home))
            if sum(now.values()) > self.peak:
                self.peak, self.at_peak = sum(now.values()), now


def _family(home: Path) -> set[psutil.Process]:
    family = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(home):
                family |= {process, *process.children(recursive=True)}
        except psutil.Error:
            continue
    return family


def _memory(process: psutil.Process) -> tuple[str, float]:
    try:
        return f"{process.pid} {' '.join(process.cmdline()[1:4])[:60]}", process.memory_full_info().pss / MIB
    except psutil.Error:
        return str(process.pid), 0.0


def environment(home: Path) -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if name not in ("R1_STORE", "R1_WORK")}
    return inherited | {"R1_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}


def r1_run(preset: str, variables: dict[str, str]) -> Run:
    """`r1 run`, its output passed on."""
    command = [sys.executable, "-u", "-m", "flows.cli", "run", "--preset", preset]
    began, times, flow_run = time.time(), {}, ""
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=variables, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"    {line}", end="", flush=True)
            if line.startswith("r1: $ "):
                times["submitting"] = time.time()
            elif found := re.search(r"/runs/flow-run/(\S+)", line):
                times["submitted"], flow_run = time.time(), found[1]
    if process.returncode:
        sys.exit(f"`{' '.join(command)}` ended with code {process.returncode}")
    return Run(began, times["submitting"], times["submitted"], time.time(), flow_run)


def flow_times(run: Run) -> tuple[datetime, datetime]:
    """When the flow began and when it ended."""
    with services.client() as server:
        answer = server.get(f"flow_runs/{run.flow_run}").raise_for_status().json()
    return datetime.fromisoformat(answer["start_time"]), datetime.fromisoformat(answer["end_time"])


def orchestration(began: datetime, store: ArtifactStore) -> Iterator[tuple[str, float, float]]:
    """(node, seconds at work, seconds of everything else) of what was published since `began`.

    A node could begin when the last of its inputs was published. Left out are evaluations and students, which
    wait for what others leave of the processors.
    """
    made = sorted((m for m in store.objects() if m.created_at > began), key=lambda m: m.created_at)
    published = {manifest.digest: manifest.created_at for manifest in made}
    for manifest in made:
        if not goes_on_without(manifest.node):
            inputs = [published[ref.digest] for ref in manifest.parents.values() if ref.digest in published]
            whole = (manifest.created_at - max(inputs, default=began)).total_seconds()
            yield manifest.node, manifest.seconds, whole - manifest.seconds


def import_seconds() -> float:
    command = [sys.executable, "-c", IMPORTS]
    run = partial(subprocess.run, command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return min(float(run().stdout) for _ in range(3))


def measure(preset: str, home: Path) -> dict[str, float]:
    variables = environment(home)
    os.environ |= variables
    with Memory(home) as memory:
        first = r1_run(preset, variables)
    again = r1_run(preset, variables)
    stages = list(orchestration(flow_times(first)[0], ArtifactStore.open()))
    began, ended = flow_times(again)
    waiting, flow = began.timestamp() - again.submitted, (ended - began).total_seconds()
    print(f"\n{'stage':<26}{'at work':>10}{'orchestration':>15}")
    for name, work, rest in stages:
        print(f"{name:<26}{work:>10.1f}{rest:>15.1f}")
    print("\nmemory at its peak, MiB")
    for name, size in sorted(memory.at_peak.items(), key=lambda item: -item[1])[:8]:
        print(f"{size:>8.0f}  {name}")
    submit = again.submitted - again.submitting
    return {
        "pipeline_seconds": first.seconds,
        "peak_gib": memory.peak / 1024,
        "orchestration_median_seconds": statistics.median(rest for *_, rest in stages),
        "orchestration_worst_seconds": max(rest for *_, rest in stages),
        "rerun_seconds": again.seconds,
        "rerun_submit_command_seconds": submit,
        "rerun_until_flow_starts_seconds": waiting,
        "rerun_flow_seconds": flow,
        "rerun_beyond_prefects_start_seconds": again.seconds - submit - waiting,
        "import_flows_seconds": import_seconds(),
    }


LIMITS = {
    "pipeline_seconds": 480.0, "peak_gib": 4.0, "orchestration_worst_seconds": 8.0,
    "rerun_beyond_prefects_start_seconds": 5.0, "import_flows_seconds": 0.5,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--folder", type=Path, help="kept; an empty one (default: temporary)")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        home = (options.folder or Path(temporary)).absolute()
        try:
            values = measure(options.preset, home)
        finally:
            down = [sys.executable, "-m", "flows.cli", "down"]
            subprocess.run(down, cwd=REPOSITORY, env={**os.environ, "R1_HOME": str(home)}, check=False)
    print()
    for name, value in values.items():
        limit = f"limit {LIMITS[name]:g}" if name in LIMITS else ""
        print(f"{name:<40}{value:>9.2f}  {limit}")
    print(json.dumps({**values, "load_before": load, "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
