"""Builds the recipe's nodes through Prefect: hits are cached task runs, misses run the stage's deployment.

The store is the truth: a child run's state says only whether to look there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.states import Cancelling, Completed

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import feasible, plan
from flows.graph import Pipeline, key_of
from flows.last_words import plain_reason
from flows.stage_flows import flow_parameters
from tasks.kinds import Kind
from tasks.presets import PresetError
from tasks.recipe import Node
from tasks.settings import Settings
from tasks.stage import Stage

POLL_SECONDS = 0.5
_ASK_SECONDS = 2.0
"""How often the server is asked for the state of a run at work; its answers take the job's processor."""
_ATTEMPTS = 2


@dataclass(frozen=True)
class Shown:
    """The result of a node's task run; Prefect draws an arrow from that run to each that waits for it."""

    node: str


class StageFailed(RuntimeError):
    """A stage's run did not complete; one line with its reason."""


@task(name="reuse", task_run_name="{node} {digest}", cache_policy=NO_CACHE, persist_result=False)
def reuse(node: str, digest: str) -> State:
    """Shows in the run's graph that `node` was not made again."""
    return Completed(name="Cached", message=f"{node} is {digest}", data=Shown(node))


@task(name="build", task_run_name="{node}", cache_policy=NO_CACHE, persist_result=False)
def dispatch(
    node: str, deployment: str, parameters: dict[str, Any], is_published: Callable[[], bool]
) -> Shown:
    """Run a stage's deployment on its work pool and wait; a run whose machine died is started once more.

    Called in the flow's main thread, so that a cancelled pipeline cancels its child at once.

    Raises:
        StageFailed: with the reason the child gave.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        run = run_deployment(deployment, parameters=parameters, timeout=0)
        assert isinstance(run, FlowRun)
        with get_client(sync_client=True) as client:
            state = _wait(client, run.id, is_published)
        if state.is_completed():
            return Shown(node)
        if not state.is_crashed() or attempt == _ATTEMPTS:
            reason = plain_reason(state.message or f"ended {state.name}")
            raise StageFailed(f"{reason} (flow run {run.name})")
    raise AssertionError("the last attempt returns or raises")


def _wait(client: SyncPrefectClient, run_id: UUID, is_published: Callable[[], bool]) -> State:
    """The run's final state; once everything is published it is near, and asked for at every poll.

    Only a run that has ended holds no GPU memory any more, so publication alone does not end the wait.
    """
    asked = 0.0
    try:
        while True:
            if is_published() or time.monotonic() - asked > _ASK_SECONDS:
                asked = time.monotonic()
                state = client.read_flow_run(run_id).state
                if state is not None and state.is_final():
                    return state
            time.sleep(POLL_SECONDS)
    except BaseException as error:
        client.set_flow_run_state(run_id, Cancelling(message=f"the pipeline stopped: {type(error).__name__}"))
        raise


@dataclass
class PrefectBuilder:
    """The `Maker` of the real run."""

    pipeline: Pipeline
    preset: str
    """As it was given: a name or a path."""
    store: ArtifactStore
    _runs: dict[str, State | Shown] = field(default_factory=dict)
    """Digest of an artifact -> its task run in this flow, for those that are made from it to wait for."""

    @property
    def student(self) -> str:
        """As the preset gives it: a name or a path."""
        return self.pipeline.preset.student

    def make(self, node: str, stage: Stage, config: Settings, **inputs: Ref) -> Ref:
        parameters = {name: ref.digest for name, ref in inputs.items()}
        made = Node(node, stage, config)
        ref = self._build_all(made, {node: inputs}, lambda missing: self._asked(made, parameters))[node]
        if ref.kind == Kind.problems:
            self._refuse_what_they_cannot_serve()
        return ref

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: Mapping[str, Ref], **inputs: Ref
    ) -> dict[str, Ref]:
        """Those that are missing, in one run of the stage's deployment."""
        made = Node(node, stage, config)
        wanted = {f"{node}.{label}": {stage.each: ref, **inputs} for label, ref in each.items()}
        shared = {name: ref.digest for name, ref in inputs.items()}

        def parameters(missing: list[str]) -> dict[str, Any]:
            labels = [name.removeprefix(f"{node}.") for name in missing]
            return self._asked(made, shared, {label: each[label].digest for label in labels})

        refs = self._build_all(made, wanted, parameters)
        return {label: refs[f"{node}.{label}"] for label in each}

    def use(self, node: str, stage: Stage, artifact: str) -> Ref:
        ref = plan.used_artifact(self.store, self.pipeline, node, stage, artifact)
        self.store.set_ref(self.pipeline.ref_name(node), ref)
        reuse(node, ref.digest, return_state=True)
        return ref

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
    ) -> dict[str, Ref]:
        """What exists is reused; the rest is one run of the stage's deployment with `parameters(missing)`."""
        keys = {name: key_of(node, refs) for name, refs in wanted.items()}
        missing = [name for name, key in keys.items() if not self._reused(name, key, wanted[name])]
        if missing:
            stage, waited = node.stage.name, [keys[name] for name in missing]
            parents = self._runs_of(ref for name in missing for ref in wanted[name].values())
            shown = dispatch(
                node.name,
                f"{stage}/{stage}",
                parameters(missing),
                partial(self._all_published, waited),
                wait_for=parents,
            )
            self._runs |= {self._published(name, keys[name]).digest: shown for name in missing}
        return {name: self._published(name, key) for name, key in keys.items()}

    def _reused(self, name: str, key: str, inputs: Mapping[str, Ref]) -> bool:
        ref = self.store.find(key)
        if ref is None:
            return False
        self.store.set_ref(self.pipeline.ref_name(name), ref)
        parents = self._runs_of(inputs.values())
        self._runs[ref.digest] = reuse(name, ref.digest, return_state=True, wait_for=parents)
        return True

    def _runs_of(self, refs: Iterable[Ref]) -> list[State | Shown]:
        """The task runs of these artifacts, each once; none for what this flow neither made nor reused."""
        digests = dict.fromkeys(ref.digest for ref in refs)
        return [self._runs[digest] for digest in digests if digest in self._runs]

    def _all_published(self, keys: list[str]) -> bool:
        return all(self.store.lookup(key) is not None for key in keys)

    def _published(self, name: str, key: str) -> Ref:
        ref = self.store.lookup(key)
        if ref is None:
            raise StageFailed(f"{name}: its run completed, and the store has no artifact of its key")
        return ref
