"""The graph of a pipeline's run in Prefect, on a server of its own; the deployments' work is stood in for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from flows import builder
from flows.builder import PrefectBuilder, Promise, StageFailed, Undecided
from flows.graph import load_pipeline
from tasks.evaluate.stage import EvaluateConfig
from tasks.presets import PresetError
from tasks.review import Review, decide
from tasks.rollout.settings import EngineSettings
from tests.flows.conftest import Publisher

pytestmark = pytest.mark.slow
REUSED = ("problems", "base", "r1-zero", "cold-start")


@dataclass
class Workers:
    """A walk of the recipe by `built`; `publisher` makes what is missing when its deployment is asked for."""

    built: PrefectBuilder
    publisher: Publisher
    failing: str = ""
    endless: str = ""
    """The node whose run stays at work until it is cancelled."""
    ids: dict[str, Any] = field(default_factory=dict)
    """Node -> its flow run."""
    work: dict[tuple[str, str], Callable[..., Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    during: dict[str, Callable[[], Any]] = field(default_factory=dict)
    """Node -> what happens while its run is at work."""

    def make(self, node, stage, config, **inputs: Promise) -> Promise:
        def work():
            return self.publisher.make(node, stage, config, **self.built._resolved(inputs))

        self.work[stage.name, node] = work
        if node in REUSED:
            for promise in inputs.values():
                promise.run.wait()
            work()
        return self.built.make(node, stage, config, **inputs)

    def make_each(self, node, stage, config, each, **inputs: Promise):
        def work(labels):
            several = self.built._resolved({label: each[label] for label in labels})
            return self.publisher.make_each(node, stage, config, several, **self.built._resolved(inputs))

        self.work[stage.name, node] = work
        return self.built.make_each(node, stage, config, each, **inputs)

    def review(self, node, made: Promise) -> Promise:
        return self.built.review(node, made)

    def run_deployment(self, name, parameters, timeout):
        from prefect import flow
        from prefect.client.orchestration import get_client
        from prefect.states import Completed, Failed, Running

        stage = name.partition("/")[0]
        (node,) = [n for s, n in self.work if s == stage and parameters.get("node", n) == n]
        self.asked.append(node)
        if node in self.during:
            self.during[node]()
        state = Running() if node == self.endless else Completed()
        if node == self.failing:
            while self.endless and self.endless not in self.ids:
                time.sleep(0.05)
            state = Failed(message="no room")
        elif node != self.endless:
            labels = parameters.get("checkpoints")
            self.work[stage, node](*[labels] if labels else [])
        with get_client(sync_client=True) as client:
            made = client.create_flow_run(flow(name=stage)(print), state=state)
        self.ids[node] = made.id
        return made


@pytest.fixture(scope="module")
def server():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=240):
        yield


@pytest.fixture
def workers(server, preset, store, tmp_path, monkeypatch, request) -> Workers:
    path = preset(getattr(request, "param", None))
    pipeline = load_pipeline(path)
    made = Workers(PrefectBuilder(pipeline, path, store), Publisher(pipeline, store, tmp_path / "drafts"))
    monkeypatch.setattr(builder, "run_deployment", made.run_deployment)
    return made


def run(workers):
    """Walk the whole recipe in a flow; the flow run's id and its error."""
    from prefect import flow
    from prefect.context import get_run_context

    ids = []

    @flow(persist_result=False)
    def walk():
        ids.append(get_run_context().flow_run.id)
        workers.built.finish(workers.built.pipeline.walk(workers))

    try:
        walk()
    except (StageFailed, Undecided, PresetError) as error:
        return ids[0], error
    return ids[0], None


def edges_of(flow_run_id, count):
    """Node -> the nodes whose task runs its own waited for, once the server knows `count` ended task runs."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    this_one = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    deadline, ended = time.monotonic() + 120, []
    while len(ended) < count and time.monotonic() < deadline:  # it learns of task runs by events
        time.sleep(0.5)
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(flow_run_filter=this_one)
        ended = [task for task in runs if task.state and task.state.is_final()]
    names = {task.id: task.name.partition(" ")[0] for task in ended}
    return {names[task.id]: {names[one.id] for one in task.task_inputs.get("wait_for", [])} for task in ended}


def test_each_nodes_task_waits_for_those_of_its_inputs(workers):
    flow_run, error = run(workers)
    assert error is None
    nodes, feeds = workers.built.pipeline.nodes, workers.built.pipeline.feeds
    expected = {node: set(feeds.get(node, {}).values()) for node in nodes}
    del expected["evaluation"]  # each is a run of its own, which does not wait for the later ones
    evaluated = {
        name: set(inputs.values()) for name, inputs in feeds.items() if name.startswith("evaluation.")
    }
    assert len(evaluated) == 9
    expected |= evaluated
    assert edges_of(flow_run, len(expected)) == expected
    assert len(workers.asked) == len(expected) - len(REUSED)


def test_evaluations_that_share_an_engines_start_are_one_run():
    for engine, names in (("vllm", ["evaluation"]), ("transformers", [f"evaluation.{x}" for x in "abc"])):
        config = EvaluateConfig(engine=EngineSettings(name=engine))
        parts = builder._parts("evaluation", config, {label: Promise(label, None) for label in "abc"})
        assert list(parts) == names
        assert [label for part in parts.values() for label in part] == ["a", "b", "c"]


def test_a_stage_that_failed_stops_the_run_with_its_reason(workers):
    workers.failing = "dev2"
    flow_run, error = run(workers)
    assert str(error).startswith("no room (flow run ")
    assert edges_of(flow_run, len(REUSED)).keys() >= {"problems", "base", "r1-zero", "cold-start", "dev1"}
    assert "mixture" not in workers.asked
    assert "dev2" in workers.asked


def test_branches_are_at_work_at_the_same_time(workers, monkeypatch):
    """Neither of the two is dispatched before the other one is about to be."""
    meeting, dispatch = threading.Barrier(2, timeout=60), PrefectBuilder._dispatch

    def meet_first(self, node, parameters, keys, turn):
        if node.name in ("dev1", "tiny-student-rl-only"):
            self._begun.add(node.name)
            meeting.wait()
        return dispatch(self, node, parameters, keys, turn)

    monkeypatch.setattr(PrefectBuilder, "_dispatch", meet_first)
    _, error = run(workers)
    assert error is None
    assert {"dev1", "tiny-student-rl-only"} <= set(workers.asked)


def test_no_more_than_two_evaluations_are_at_work(workers, monkeypatch):
    """Three of them would fill a pool in which the mixture may have to wait."""
    at_work, most, dispatch = [], [], PrefectBuilder._dispatch

    def count(self, node, *rest):
        if node.name == "evaluation":
            at_work.append(node)
            most.append(len(at_work))
            time.sleep(0.5)  # so that those that may begin meanwhile do
        dispatch(self, node, *rest)
        if node.name == "evaluation":
            at_work.pop()

    monkeypatch.setattr(PrefectBuilder, "_dispatch", count)
    _, error = run(workers)
    assert error is None
    assert workers.asked.count("evaluation") == 9
    assert set(most) <= {1, 2}


def test_what_can_begin_together_is_asked_for_in_the_order_of_the_recipe(workers, monkeypatch):
    monkeypatch.setattr("tests.flows.test_builder.REUSED", ())
    _, error = run(workers)
    assert error is None
    assert workers.asked[:2] == ["problems", "base"]
    assert workers.asked.index("r1-zero") < workers.asked.index("tiny-student-rl-only")


def test_a_failure_stops_the_branches_at_work(workers):
    """The run that never ends by itself is cancelled; what depends on it is not begun."""
    from prefect.client.orchestration import get_client

    workers.failing, workers.endless = "tiny-student-rl-only", "dev1"
    _, error = run(workers)
    assert str(error).startswith("no room (flow run ")
    assert "dev2" not in workers.asked
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(workers.ids["dev1"]).state
    assert state.type in ("CANCELLING", "CANCELLED")


REVIEWED = pytest.mark.parametrize(
    "workers", [{"review": {"nodes": ["cold-start"], "rows": 3}}], indirect=True
)


def decided(workers, tmp_path, decision: str, comment: str = "") -> None:
    """What a person says of the cold-start set."""
    store = workers.built.store
    ref = store.get_ref(workers.built.pipeline.ref_name("cold-start"))
    decide(store, ref, Review(decision=decision, author="Ann", comment=comment), tmp_path / "reviews")


@REVIEWED
def test_other_branches_end_before_the_run_waits_for_a_review(workers, tmp_path):
    _, error = run(workers)
    assert isinstance(error, Undecided)
    assert list(error.sets) == ["cold-start"]
    assert {"tiny-student-base", "tiny-student-rl-only", "evaluation"} == set(workers.asked)
    decided(workers, tmp_path, "approve")
    built = workers.built
    workers.built = PrefectBuilder(built.pipeline, built.preset, built.store)
    _, error = run(workers)
    assert error is None
    assert workers.asked.count("dev1") == 1
    assert built.store.get_ref(built.pipeline.ref_name("report")) is not None


@REVIEWED
def test_a_decision_that_comes_while_a_branch_is_at_work_is_used_at_once(workers, tmp_path, monkeypatch):
    dispatch = PrefectBuilder._dispatch

    def decide_first(self, node, parameters, keys, turn):
        if node.name == "tiny-student-rl-only":
            self._begun.add(node.name)
            decided(workers, tmp_path, "approve")
            deadline = time.monotonic() + 60
            while "dev1" not in workers.asked:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        return dispatch(self, node, parameters, keys, turn)

    monkeypatch.setattr(PrefectBuilder, "_dispatch", decide_first)
    _, error = run(workers)
    assert error is None


@REVIEWED
def test_after_a_rejection_nothing_that_depends_on_the_set_begins(workers, tmp_path):
    workers.during["tiny-student-rl-only"] = lambda: decided(workers, tmp_path, "reject", "too terse")
    _, error = run(workers)
    assert "cold-start was rejected by Ann" in str(error)
    assert "too terse" in str(error)
    assert "dev1" not in workers.asked
