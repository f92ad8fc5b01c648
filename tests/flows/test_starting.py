"""How jobs start beside a worker of a machine with a GPU, tried on a CPU."""

import os
from unittest import mock

import pytest

from flows import paths, starting
from flows.graph import load_pipeline
from flows.local_builder import LocalBuilder

pytestmark = pytest.mark.slow

SHORT = {
    "problems.sources": [{"name": "tiny-world", "train": {"math": 20}, "held_out": {"math": 5}}],
    "base.model": "tasks/tiny_world/weights/tiny-base", "r1-zero.domains": ["math"], "r1-zero.steps": 3,
    "r1-zero.evaluate_every": 0, "r1-zero.max_completion_length": 16,
}  # fmt: skip


def test_a_job_that_uses_a_gpu_is_done_by_a_process_that_waited(preset, store):
    pipeline = load_pipeline(preset(SHORT))
    with mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": "0"}), starting.started_beside():
        builder = LocalBuilder(pipeline, store, print, start_on_gpu=starting.start)

        def made(name, **inputs):
            node = pipeline.node(name)
            return builder.make(name, node.stage, node.config, **inputs)

        trained = made("r1-zero", checkpoint=made("base"), problems=made("problems"))
    assert store.get_ref(pipeline.ref_name("r1-zero")) == trained
    assert "not started" not in paths.log("starter").read_text()
