"""Builds the recipe's nodes through Prefect: hits are cached task runs, misses run the stage's deployment.

The store is the truth: a child run's state says only whether to look there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.futures import PrefectFuture, as_completed, wait
from prefect.states import Cancelled, Cancelling, Completed

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import feasible, plan, ui
from flows.graph import Pipeline, key_of
from flows.last_words import plain_reason
from flows.reviewing import settled
from flows.stage_flows import flow_parameters
from tasks.kinds import Kind
from tasks.presets import PresetError
from tasks.recipe import Node
from tasks.review import newest
from tasks.settings import Settings
from tasks.stage import Stage

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
_ASK_SECONDS = 2.0
"""How often the server is asked for the state of a run at work; its answers take the job's processor."""
_ATTEMPTS = 2
_END_SECONDS = 120.0
"""Longest wait, at the end of the pipeline, for runs whose artifacts are all published."""
_TURN_SECONDS = 0.05


_starting = threading.Lock()
"""Prefect numbers the child runs of a flow without a lock of its own."""


class StageFailed(RuntimeError):
    """A stage's run did not complete; one line with its reason."""


class Undecided(RuntimeError):
    """Data sets wait for a person, and nothing else is left to do until then."""

    def __init__(self, sets: Mapping[str, Ref]) -> None:
        super().__init__(f"{', '.join(sets)} waits for a review")
        self.sets = dict(sets)
        """Node -> its data set."""


class PipelineStopped(RuntimeError):
    """The pipeline was cancelled or another branch failed, so this branch does not go on."""


@task(name="build", task_run_name="{node}", cache_policy=NO_CACHE, persist_result=False)
def build(node: str, make: Callable[[], Iterable[str]]) -> State:
    """One node in the run's graph, `Cached` where nothing was made; `make` tells the names it made.

    A review that nobody has decided yet ends as `Waiting`, so what depends on it does not begin.
    """
    try:
        made = ", ".join(make())
    except Undecided as waiting:
        return Cancelled(name="Waiting", message=str(waiting))
    return (
        Completed(message=f"made {made}") if made else Completed(name="Cached", message=f"{node} was there")
    )


@dataclass(frozen=True)
class Promise:
    """What stands for an artifact while the recipe is walked: the task run that reuses or makes it."""

    artifact: str
    run: PrefectFuture[Any]


@dataclass
class PrefectBuilder:
    """The `Maker` of the real run.

    The walk only submits the nodes, each to wait for those that feed it, so branches that do not depend on
    each other run at the same time where the work pools let them. `finish` waits for all of them, and for
    their flow runs.
    """

    pipeline: Pipeline
    preset: str
    """As it was given: a name or a path."""
    store: ArtifactStore
    _refs: dict[str, Ref] = field(default_factory=dict)
    """Artifact -> what it is, once its run has ended well."""
    _submitted: list[PrefectFuture[Any]] = field(default_factory=list)
    _feeds: dict[str, list[str]] = field(default_factory=dict)
    """Node, in the order of the recipe -> the artifacts that it is made from."""
    _begun: set[str] = field(default_factory=set)
    """Nodes whose deployment was asked for, or that did not need it."""
    _ended: set[str] = field(default_factory=set)
    """Nodes that are made, reused or failed."""
    _reviewing: set[str] = field(default_factory=set)
    """Reviews that are waited for."""
    _ending: list[FlowRun] = field(default_factory=list)
    """Runs that have published what they were asked for, and still show it in the UI."""
    _undecided: dict[str, Ref] = field(default_factory=dict)
    """Node -> its data set, for which nobody decided while there was anything else to do."""
    _places_aside: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(2))
    """One is held while one of the runs of `make_each` is at work."""
    _walked: threading.Event = field(default_factory=threading.Event)
    """Every node is submitted."""
    _stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def student(self) -> str:
        """As the preset gives it: a name or a path."""
        return self.pipeline.preset.student

    def make(self, node: str, stage: Stage, config: Settings, **inputs: Promise) -> Promise:
        def made() -> list[str]:
            refs = self._resolved(inputs)
            parameters = {name: ref.digest for name, ref in refs.items()}
            new = self._build_all(wanted, {node: refs}, lambda _: self._asked(wanted, parameters), node)
            if self._refs[node].kind == Kind.problems:
                self._refuse_what_they_cannot_serve()
            return new

        wanted = Node(node, stage, config)
        return Promise(node, self._submit(node, made, inputs.values()))

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: Mapping[str, Promise], **inputs: Promise
    ) -> dict[str, Promise]:
        """Those that are missing, in one run of the stage's deployment, which starts one engine for them.

        An engine that starts in no time need not be shared: then each has a run of its own, beside the
        stages that still train. Two at a time: more would fill the pool that the next stage may need.
        """

        def made(part: Mapping[str, Promise], turn: str) -> list[str]:
            several, shared = self._resolved(part), self._resolved(inputs)
            refs = {f"{node}.{label}": {stage.each: ref, **shared} for label, ref in several.items()}
            digests = {name: ref.digest for name, ref in shared.items()}

            def parameters(missing: list[str]) -> dict[str, Any]:
                labels = [name.removeprefix(f"{node}.") for name in missing]
                return self._asked(wanted, digests, {label: several[label].digest for label in labels})

            return self._build_all(wanted, refs, parameters, turn)

        wanted = Node(node, stage, config)
        promises: dict[str, Promise] = {}
        for name, part in _parts(node, config, each).items():
            run = self._submit(name, partial(made, part, name), [*part.values(), *inputs.values()])
            promises |= {label: Promise(f"{node}.{label}", run) for label in part}
        return promises

    def use(self, node: str, stage: Stage, artifact: str) -> Promise:
        ref = plan.used_artifact(self.store, self.pipeline, node, stage, artifact)
        self.store.set_ref(self.pipeline.ref_name(node), ref)
        self._refs[node] = ref
        return Promise(node, self._submit(node, list, []))

    def review(self, node: str, made: Promise) -> Promise:
        """The data set that a person approved or edited.

        Other branches go on meanwhile, and a decision from the terminal is seen at once. The form of the UI
        needs the whole run suspended: that is left to the flow, once nothing else can be done.
        """
        name = f"review of {node}"

        def decided() -> list[str]:
            self._begun.add(name)
            ref = self._refs[node]
            if newest(self.store, ref) is None:
                self._reviewing.add(name)
                ui.publish_review(node, self.pipeline.name, self.store.fetch(ref), ref, self._shown_rows)
            while newest(self.store, ref) is None:
                if self._nothing_else_to_do():
                    self._undecided[node] = ref
                    raise Undecided({node: ref})
                if self._stopping.wait(POLL_SECONDS):
                    raise PipelineStopped("the pipeline stopped before anybody reviewed this")
            self._reviewing.discard(name)
            used = settled(self.store, node, self.pipeline.ref_name(node), ref)
            if used != ref:
                ui.publish_stage_artifacts(node, self.pipeline.name, self.store.fetch(used), used)
            self._refs[name] = used
            return []

        return Promise(name, self._submit(name, decided, [made]))

    @property
    def _shown_rows(self) -> int:
        return int(self.pipeline.preset.review.rows)

    def _nothing_else_to_do(self) -> bool:
        """Whether every node has ended, is a review, or lacks an input."""
        return self._walked.is_set() and all(
            n in self._ended or n in self._reviewing or any(a not in self._refs for a in feeds)
            for n, feeds in self._feeds.items()
        )

    def finish(self, last: Promise) -> Ref:
        """Wait for every run; what the artifact `last` is.

        Where one fails, or the flow is cancelled, no further one is started, and those at work are cancelled:
        they write a checkpoint and go on in the next run.

        Raises:
            StageFailed, PresetError: those of the first run that failed.
            Undecided: all is done that could be done before a review.
        """
        self._walked.set()
        try:
            for run in as_completed(self._submitted):
                run.wait()
                if run.state.is_failed() or run.state.is_crashed():
                    run.result()
            if self._undecided:
                raise Undecided(self._undecided)
            return self._refs[last.artifact]
        finally:
            self._stopping.set()
            wait(self._submitted)
            self._see_the_end()

    def _submit(
        self, node: str, made: Callable[[], Iterable[str]], after: Iterable[Promise]
    ) -> PrefectFuture[Any]:
        def made_in_turn() -> list[str]:
            try:
                return list(made())
            finally:
                self._begun.add(node)
                self._ended.add(node)

        promises = list(after)
        self._feeds[node] = [promise.artifact for promise in promises]
        parents = list(dict.fromkeys(promise.run for promise in promises))
        run: PrefectFuture[Any] = build.submit(node, make=made_in_turn, wait_for=parents)  # type: ignore[call-overload]
        self._submitted.append(run)
        return run

    def _resolved(self, promises: Mapping[str, Promise]) -> dict[str, Ref]:
        return {name: self._refs[promise.artifact] for name, promise in promises.items()}

    def _refuse_what_they_cannot_serve(self) -> None:
        """Raises PresetError: a later stage cannot work with the problems, which are there now."""
        if found := feasible.objections(self.pipeline, self.store):
            raise PresetError("; ".join(found))

    def _asked(
        self, node: Node, inputs: Mapping[str, str], each: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return flow_parameters(node, self.preset, self.pipeline.name, self.student, inputs, each)

    def _build_all(
        self,
        node: Node,
        wanted: Mapping[str, Mapping[str, Ref]],
        parameters: Callable[[list[str]], dict[str, Any]],
        turn: str,
    ) -> list[str]:
        """What exists is reused; the rest, which is returned, is one run of the stage's deployment. It takes
        its turn as what was submitted under the name `turn`."""
        keys = {name: key_of(node, refs) for name, refs in wanted.items()}
        missing = [name for name, key in keys.items() if not self._reused(name, key)]
        if missing:
            waited = [keys[name] for name in missing]
            self._wait_for_turn(turn)
            with self._places_aside if node.stage.each else nullcontext():
                self._dispatch(node, parameters(missing), waited, turn)
        self._refs |= {name: self._published(name, key) for name, key in keys.items()}
        return missing

    def _reused(self, name: str, key: str) -> bool:
        ref = self.store.find(key)
        if ref is not None:
            self.store.set_ref(self.pipeline.ref_name(name), ref)
        return ref is not None

    def _wait_for_turn(self, node: str) -> None:
        """Return once no earlier node of the recipe could begin too.

        Pools take runs in the order they come, and R1-Zero, for which most of the recipe waits, must not be
        behind a student.
        """
        earlier = list(self._feeds)[: list(self._feeds).index(node)]
        while any(n not in self._begun and all(a in self._refs for a in self._feeds[n]) for n in earlier):
            if self._stopping.wait(_TURN_SECONDS):
                return

    def _dispatch(self, node: Node, parameters: dict[str, Any], keys: list[str], turn: str) -> None:
        """Run a stage's deployment on its work pool until all of it is published; a run whose machine died is
        started once more.

        The run itself ends a few seconds later, when the UI has its pages. The next stage's process starts
        meanwhile: it is the jobs that hold a card, each until its process is gone (`tasks.job.cards`).

        Raises:
            StageFailed: with the reason the child gave.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            if self._stopping.is_set():
                raise PipelineStopped("the pipeline stopped before this stage began")
            with _starting:
                run = run_deployment(f"{node.stage.name}/{node.stage.name}", parameters=parameters, timeout=0)
            assert isinstance(run, FlowRun)
            self._begun.add(turn)
            with get_client(sync_client=True) as client:
                state = self._wait(client, run.id, keys)
            if state is None:
                self._ending.append(run)
                return
            if state.is_completed():
                return
            if not state.is_crashed() or attempt == _ATTEMPTS:
                reason = plain_reason(state.message or f"ended {state.name}")
                raise StageFailed(f"{reason} (flow run {run.name})")

    def _wait(self, client: SyncPrefectClient, run_id: UUID, keys: list[str]) -> State | None:
        """The run's final state, or nothing where everything is published before it ends."""
        asked = 0.0
        while not self._stopping.wait(POLL_SECONDS):
            if all(self.store.lookup(key) is not None for key in keys):
                return None
            if time.monotonic() - asked > _ASK_SECONDS:
                asked = time.monotonic()
                state = client.read_flow_run(run_id).state
                if state is not None and state.is_final():
                    return state
        client.set_flow_run_state(run_id, Cancelling(message="the pipeline stopped"))
        raise PipelineStopped("the pipeline stopped while this stage was at work")

    def _see_the_end(self) -> None:
        """Until runs whose artifacts are published have ended too; one that fails then is only told of."""
        deadline = time.monotonic() + _END_SECONDS
        with get_client(sync_client=True) as client:
            for run in self._ending:
                while not ((state := client.read_flow_run(run.id).state) and state.is_final()):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(POLL_SECONDS)
                if state is None or not state.is_completed():
                    log.warning(
                        "%s is published, but its run did not end well: %s", run.name, state and state.message
                    )

    def _published(self, name: str, key: str) -> Ref:
        ref = self.store.lookup(key)
        if ref is None:
            raise StageFailed(f"{name}: its run completed, and the store has no artifact of its key")
        return ref


def _parts(node: str, config: Settings, each: Mapping[str, Promise]) -> dict[str, dict[str, Promise]]:
    """What `make_each` makes in one run, by the name under which it is submitted."""
    engine = getattr(config, "engine", None)
    if len(each) < 2 or engine is None or engine.entry.package:
        return {node: dict(each)}
    return {f"{node}.{label}": {label: promise} for label, promise in each.items()}
