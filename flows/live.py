"""Shows a pipeline run in the terminal while it runs: a bar for the node at work, a line per finished one.

Nothing is written for this view. It walks the recipe like a plan does, and waits at each node until the
store has the artifact of its key, in whatever order the pipeline makes them. Meanwhile
the progress record in the key's work folder moves the bar, and the server says whether the run has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import api, daemons, paths, services
from flows.graph import key_of
from tasks.job import Progress as JobProgress
from tasks.recipe import Maker, Node
from tasks.review import Decision, newest
from tasks.settings import Settings
from tasks.stage import Stage
from tasks.text_safety import for_terminal

POLL_SECONDS = 0.5
_ASK_SECONDS = 3.0
"""The server's answers cost the job time, so a run at work is asked for seldom: only whether it ended."""
_GONE_SECONDS = 60.0
"""Without an answer for this long the server counts as gone."""
_REVIVALS = 3
"""How often services that die are started again while one run is watched."""
_QUIET_SECONDS = 30.0
"""Where the output is no terminal, a job at work says so this often."""

Walk = Callable[[Maker[Ref]], object]
"""Makes, by a maker, the nodes that the run makes, in its order."""


@dataclass(frozen=True)
class Outcome:
    state: api.RunState
    nodes: int
    """How many were seen to be published."""
    reused: int

    @property
    def completed(self) -> bool:
        return self.state.type == "COMPLETED"


class _RunEnded(Exception):
    """The run has ended, and the store has no artifact of the node that was waited for."""


@dataclass
class WatchedRun:
    """A flow run as the server tells of it; None until it answered for the first time."""

    flow_run: str
    client: httpx.Client
    say: services.Say = lambda text: None
    state: api.RunState | None = None
    _revived: int = 0
    _heard: float = field(default_factory=time.monotonic)
    _asked: float = 0.0

    @property
    def at_work(self) -> bool:
        """Whether it has begun and not ended."""
        return self.state is not None and self.state.started is not None and not self.state.final

    def ask(self, at_once: bool = False) -> None:
        """Ask for the state; of a run at work only every few seconds, or `at_once`.

        Services of this machine that died meanwhile are started again: without workers a run waits for ever.

        Raises:
            httpx.HTTPError: the server has not answered for a minute.
            ServiceError: the services die again and again.
        """
        now = time.monotonic()
        if self.at_work and not at_once and now - self._asked < _ASK_SECONDS:
            return
        self._asked = now
        if not (self.state and self.state.final):
            self._revive()
        try:
            self.state = api.state(self.client, self.flow_run)
        except httpx.HTTPError:
            if now - self._heard > _GONE_SECONDS:
                raise
            return
        self._heard = now

    def _revive(self) -> None:
        if self._revived == _REVIVALS and (daemons.died("workers") or daemons.died("server")):
            log = paths.home() / "logs"
            raise services.ServiceError(
                f"the services died {_REVIVALS + 1} times: see {log}, then `r1 run` again"
            )
        if services.revive(self.say):
            self._revived += 1
            self._heard = time.monotonic()

    def wait(self) -> api.RunState:
        """The final state of a run whose nodes are all published: it is near."""
        self.ask(at_once=True)
        while self.state is None or not self.state.final:
            time.sleep(POLL_SECONDS)
            self.ask(at_once=True)
        return self.state


@dataclass
class RunView:
    """The `Maker` that waits until another process made the node, and shows that it does."""

    run: WatchedRun
    store: ArtifactStore
    console: Console
    bars: Progress
    scope: str = ""
    """What plain names of artifacts are looked up in."""
    nodes: int = 0
    reused: int = 0
    _said: float = field(default_factory=time.monotonic)

    def make(self, node: str, stage: Stage, config: Settings, **inputs: Ref) -> Ref:
        ref = self._published(node, key_of(Node(node, stage, config), inputs))
        self._show(node, ref)
        return ref

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: Mapping[str, Ref], **inputs: Ref
    ) -> dict[str, Ref]:
        return {
            label: self.make(f"{node}.{label}", stage, config, **{stage.each: one}, **inputs)
            for label, one in each.items()
        }

    def use(self, node: str, stage: Stage, artifact: str) -> Ref:
        ref = self.store.resolve(artifact, self.scope)
        self._line(f"[cyan]used[/]    {node:<28} {ref.short}")
        return ref

    def review(self, node: str, made: Ref) -> Ref:
        """Wait for the decision, as the run does."""
        said = False
        while (found := newest(self.store, made)) is None:
            self.run.ask()
            state = self.run.state
            if state and state.final:
                raise _RunEnded(node)
            if not said and state and state.type == "PAUSED":
                said = True
                url = f"{services.ui_url()}/runs/flow-run/{self.run.flow_run}"
                self._line(f"[yellow]waits[/]   {node:<28} decide at {url} (Resume) or by `r1 review`")
            time.sleep(POLL_SECONDS)
        self._line(f"[cyan]review[/]  {node:<28} {escape(found.sentence)}")
        if found.review.decision == Decision.reject:
            raise _RunEnded(node)
        return found.result

    def _published(self, node: str, key: str) -> Ref:
        """The artifact of `key`, as soon as the run has begun and the store has it."""
        bar = self.bars.add_task(node, total=None, text="starting", visible=False)
        try:
            while True:
                self.run.ask()
                state = self.run.state  # asked before the store: what the run published is there by then
                if state and state.started and (ref := self.store.lookup(key)):
                    return ref
                if state and state.final:
                    raise _RunEnded(node)
                self._move(bar, node, key)
                time.sleep(POLL_SECONDS)
        finally:
            self.bars.remove_task(bar)

    def _move(self, bar: Any, node: str, key: str) -> None:
        self.bars.update(bar, visible=self.run.at_work)
        record = JobProgress.read(paths.work_root() / key)
        if record is None:
            return
        text = _text(record)
        self.bars.update(bar, completed=record.done, total=record.total or None, text=escape(text))
        if not self.console.is_terminal and time.monotonic() - self._said > _QUIET_SECONDS:
            self._said = time.monotonic()
            self._line(f"  {node} {record.done}/{record.total} {escape(text)}")

    def _show(self, node: str, ref: Ref) -> None:
        manifest, state = self.store.manifest(ref.digest), self.run.state
        assert state is not None
        assert state.started is not None
        self.nodes += 1
        if manifest.created_at < state.started:
            self.reused += 1
            self._line(f"[cyan]reused[/]  {node:<28} {ref.short}")
        else:
            self._line(f"[green]made[/]    {node:<28} {ref.short}  {_duration(manifest.seconds)}")

    def failed(self, node: str, reason: str) -> None:
        self._line(f"[red]failed[/]  {node:<28} {escape(for_terminal(reason))}")

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def watch(flow_run: str, walk: Walk, store: ArtifactStore, console: Console, scope: str = "") -> Outcome:
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
    with bars, services.client() as client:

        def say(text: str) -> None:
            console.print(f"r1: {escape(for_terminal(text))}", highlight=False, soft_wrap=True)

        view = RunView(WatchedRun(flow_run, client, say), store, console, bars, scope)
        try:
            walk(view)
        except _RunEnded as ended:
            state = view.run.wait()
            if state.type == "FAILED":
                view.failed(str(ended), state.reason)
        return Outcome(view.run.wait(), view.nodes, view.reused)


def _text(record: JobProgress) -> str:
    metrics = "  ".join(f"{name} {value:.3g}" for name, value in record.metrics.items())
    return for_terminal(f"{record.message}  {metrics}".strip()[:80])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
