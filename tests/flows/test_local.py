"""The recipe without a server: the same keys and names as with one, and a process that waits for its job."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import NoReturn

import pytest

from flows import paths
from flows.graph import load_pipeline
from flows.local_builder import LocalBuilder
from flows.plan import plan
from flows.runner import job_environment
from tasks.settings import REPOSITORY
from tasks.supervise import trees
from tasks.supervise.spares import SpareProcesses

pytestmark = pytest.mark.slow

SOURCE = {"name": "tiny-world", "train": {"math": 20}, "held_out": {"math": 5}}


def said(*words: str) -> subprocess.CompletedProcess:
    argv = [sys.executable, "-m", "flows.local", *words]
    return subprocess.run(
        argv, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, timeout=300, check=False
    )


def test_it_ends_at_a_node_and_goes_on_from_there(preset, store):
    path = preset(
        {"problems.sources": [{"name": "tiny-world", "train": {"math": 20}, "held_out": {"math": 5}}]}
    )
    done = said(path, "--until", "problems")
    assert done.returncode == 0, done.stderr
    assert "\nr1: made problems " in done.stdout
    for expected in ("made", "reused"):  # base needs no problems
        again = said(path, "--until", "base")
        lines = [line.split()[1:3] for line in again.stdout.splitlines()]
        assert [line for line in lines if line[0] in ("made", "reused")] == [[expected, "base"]]
    rows = {row.node: row.hit for row in plan(load_pipeline(path), store)}
    assert (rows["problems"], rows["base"], rows["r1-zero"]) == (True, True, False)


def test_an_unknown_node_is_one_line(preset):
    done = said(preset(), "--until", "dev9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("r1: the recipe has no node 'dev9'")


def test_a_spare_process_does_the_job_and_others_wait(preset, store, monkeypatch):
    path = preset({"base.model": "tasks/tiny_world/weights/tiny-base"})
    started: list[subprocess.Popen] = []  # in their order, which neither a process number nor a time tells

    def noted(*words: object, **named: object) -> subprocess.Popen:
        started.append(start_session(*words, **named))
        return started[-1]

    start_session = trees.start_session
    monkeypatch.setattr(trees, "start_session", noted)
    spare = SpareProcesses(job_environment(), paths.log("spare"))
    pipeline = load_pipeline(path)
    node = pipeline.node("base")
    stage = replace(node.stage, pool="gpu-train")
    builder = LocalBuilder(pipeline, store, print, start_on_gpu=spare.start)
    try:
        ref = builder.make("base", stage, node.config)
        ended = [process.returncode is not None or trees.has_ended(process) for process in started]
    finally:
        spare.close()
    assert store.get_ref(builder.pipeline.ref_name("base")) == ref
    (folder,) = (paths.work_root() / "jobs").iterdir()
    assert "published" in (folder / "log.txt").read_text()
    assert ended == [True, False, False]  # the oldest did the job, and a third was started
    assert all(process.returncode is not None for process in started)


def test_a_job_without_a_gpu_waits_for_no_imports(preset, store):
    path = preset(
        {"problems.sources": [{"name": "tiny-world", "train": {"math": 20}, "held_out": {"math": 5}}]}
    )

    def refused(*_: object) -> NoReturn:
        raise AssertionError("the problems were made by a process that has imported torch")

    builder = LocalBuilder(load_pipeline(path), store, print, start_on_gpu=refused)
    node = builder.pipeline.node("problems")
    ref = builder.make("problems", node.stage, node.config)
    assert store.get_ref(builder.pipeline.ref_name("problems")) == ref
