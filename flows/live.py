"""Shows a pipeline run in the terminal while it runs: a bar per job at work, a line per finished node."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flows import api, paths
from flows.status import NodeStatus, RunStatus
from tasks.job import Progress as JobProgress

POLL_SECONDS = 0.5
_ASK_SECONDS = 3.0
"""The server, whose answers cost the job time, says only whether the run ended; the record says the rest."""
_GONE_SECONDS = 60.0
"""Without an answer for this long the server counts as gone."""
_QUIET_SECONDS = 30.0
"""Where the output is no terminal, a job at work says so this often."""


@dataclass(frozen=True)
class Outcome:
    state: str
    reason: str
    status: RunStatus | None

    @property
    def completed(self) -> bool:
        return self.state == "COMPLETED"


@dataclass
class _View:
    console: Console
    bars: Progress
    shown: dict[str, NodeStatus] = field(default_factory=dict)
    tasks: dict[str, TaskID] = field(default_factory=dict)
    said: dict[str, float] = field(default_factory=dict)

    def update(self, status: RunStatus) -> None:
        for node in status.nodes.values():
            if node.state == "running":
                self._running(node)
            elif self.shown.get(node.node) != node and node.state != "waiting":
                self._finished(node)
            self.shown[node.node] = node

    def _running(self, node: NodeStatus) -> None:
        record = JobProgress.read(paths.work_root() / node.key)
        if node.node not in self.tasks:
            self.tasks[node.node] = self.bars.add_task(node.node, total=None, text="starting")
        if record is None:
            return
        text = _text(record)
        self.bars.update(
            self.tasks[node.node], completed=record.done, total=record.total or None, text=escape(text)
        )
        if not self.console.is_terminal and time.monotonic() - self.said.get(node.node, 0) > _QUIET_SECONDS:
            self.said[node.node] = time.monotonic()
            self._line(f"  {node.node} {record.done}/{record.total} {text}")

    def _finished(self, node: NodeStatus) -> None:
        if node.node in self.tasks:
            self.bars.remove_task(self.tasks.pop(node.node))
        self._line(_line(node))

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


@dataclass
class _Server:
    flow_run: str
    client: httpx.Client
    heard: float = field(default_factory=time.monotonic)
    asked: float = 0.0

    def final_state(self, at_once: bool) -> api.RunState | None:
        """The run's state once it has ended; the server is asked every few seconds, or `at_once`."""
        now = time.monotonic()
        if not at_once and now - self.asked < _ASK_SECONDS:
            return None
        self.asked = now
        try:
            state = api.state(self.client, self.flow_run)
        except httpx.HTTPError:
            if now - self.heard > _GONE_SECONDS:
                raise
            return None
        self.heard = now
        return state if state.final else None


def watch(flow_run: str, console: Console) -> Outcome:
    """Follow a run until it ends.

    Raises:
        httpx.HTTPError: the server has not answered for a minute; the run may go on.
    """
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    bars = Progress(*columns, console=console, disable=not console.is_terminal)
    with bars, httpx.Client() as client:
        view, server = _View(console, bars), _Server(flow_run, client)
        while True:
            status = RunStatus.read(flow_run)
            if status is not None:
                view.update(status)
            if state := server.final_state(at_once=status is not None and status.settled):
                break
            time.sleep(POLL_SECONDS)
        status = RunStatus.read(flow_run)
        if status is not None:
            view.update(status)
    reason = (status.reason if status else "") or state.message
    return Outcome(state.type, reason, status)


def count(status: RunStatus, states: Iterable[str]) -> int:
    wanted = set(states)
    return sum(node.state in wanted for node in status.nodes.values())


def _text(record: JobProgress) -> str:
    metrics = "  ".join(f"{name} {value:.3g}" for name, value in record.metrics.items())
    return f"{record.message}  {metrics}".strip()[:80]


def _line(node: NodeStatus) -> str:
    digest = node.ref.short if node.ref else ""
    match node.state:
        case "cached":
            return f"[cyan]reused[/]  {node.node:<28} {digest}"
        case "done":
            return f"[green]made[/]    {node.node:<28} {digest}  {_duration(node.ended - node.began)}"
    return f"[red]failed[/]  {node.node:<28} {escape(node.reason)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
