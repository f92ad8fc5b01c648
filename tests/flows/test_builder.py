"""The graph of a pipeline's run in Prefect, on a server of its own; the deployments' work is stood in for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from artifacts.refs import Ref
from flows import builder
from flows.builder import PrefectBuilder, StageFailed
from flows.graph import load_pipeline
from tests.flows.conftest import Publisher

pytestmark = pytest.mark.slow
REUSED = ("problems", "base", "r1-zero", "cold-start", "dev3")


@dataclass
class Workers:
    """A walk of the recipe by `built`; `publisher` makes what is missing when its deployment is asked for."""

    built: PrefectBuilder
    publisher: Publisher
    failing: str = ""
    work: Callable[[], Any] = print
    asked: list[str] = field(default_factory=list)

    def make(self, node, stage, config, **inputs: Ref) -> Ref:
        self.work = lambda: self.publisher.make(node, stage, config, **inputs)
        if node in REUSED:
            self.work()
        return self.built.make(node, stage, config, **inputs)

    def make_each(self, node, stage, config, each, **inputs: Ref):
        self.work = lambda: self.publisher.make_each(node, stage, config, each, **inputs)
        return self.built.make_each(node, stage, config, each, **inputs)

    def run_deployment(self, name, parameters, timeout):
        from prefect import flow
        from prefect.client.orchestration import get_client
        from prefect.states import Completed, Failed

        self.asked.append(name.partition("/")[0])
        fails = parameters.get("node") == self.failing
        if not fails:
            self.work()
        state = Failed(message="no room") if fails else Completed()
        with get_client(sync_client=True) as client:
            return client.create_flow_run(flow(name=name.partition("/")[0])(print), state=state)


@pytest.fixture(scope="module")
def server():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=240):
        yield


@pytest.fixture
def workers(server, preset, store, tmp_path, monkeypatch) -> Workers:
    path = preset()
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
        workers.built.pipeline.walk(workers)

    try:
        walk()
    except StageFailed as error:
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
    expected["evaluation"] = {  # one run for all of them
        feed for name, inputs in feeds.items() if name.startswith("evaluation.") for feed in inputs.values()
    }
    expected["report"] = {feed.partition(".")[0] for feed in expected["report"]}
    assert edges_of(flow_run, len(nodes)) == expected
    assert len(workers.asked) == len(nodes) - len(REUSED)


def test_a_stage_that_failed_stops_the_run_with_its_reason(workers):
    workers.failing = "dev2"
    flow_run, error = run(workers)
    assert str(error).startswith("no room (flow run ")
    assert edges_of(flow_run, len(REUSED)).keys() >= {"problems", "base", "r1-zero", "cold-start", "dev1"}
    assert workers.asked[-1] == "reasoning-rl"
