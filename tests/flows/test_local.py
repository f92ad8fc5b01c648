"""The recipe without a server: the same keys and names as with one, and a process that waits for its job."""

import os
import subprocess
import sys

import psutil
import pytest

from flows import paths
from flows.graph import load_pipeline
from flows.local_builder import LocalBuilder
from flows.plan import plan
from flows.runner import job_environment
from flows.spare import SpareProcess
from tasks.settings import REPOSITORY

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


def test_a_spare_process_does_the_job_and_the_next_one_waits(preset, store):
    path = preset(
        {"problems.sources": [{"name": "tiny-world", "train": {"math": 20}, "held_out": {"math": 5}}]}
    )
    before = set(psutil.Process().children())
    spare = SpareProcess(job_environment(), paths.log("spare"))
    (first,) = set(psutil.Process().children()) - before
    builder = LocalBuilder(load_pipeline(path), store, print, start=spare.start)
    node = builder.pipeline.node("problems")
    try:
        ref = builder.make("problems", node.stage, node.config)
        (second,) = set(psutil.Process().children()) - before
    finally:
        spare.close()
    assert store.get_ref(builder.pipeline.ref_name("problems")) == ref
    (folder,) = (paths.work_root() / "jobs").iterdir()
    assert "published" in (folder / "log.txt").read_text()
    assert second != first
    assert not set(psutil.Process().children()) - before
