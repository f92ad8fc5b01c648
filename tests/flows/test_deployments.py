"""prefect.yaml against the stages, and what importing the flows costs."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.deployments import prefect_yaml
from flows.pools import POOLS
from tasks.recipe import STAGES

DEPLOYMENTS = {d["name"]: d for d in yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]}


def test_prefect_yaml_is_what_the_stages_say():
    said = "prefect.yaml is out of date: `python -m flows.deployments > prefect.yaml` writes it"
    assert Path("prefect.yaml").read_text() == prefect_yaml(), said


def test_deployments_set_nothing_of_the_process_that_runs_them():
    assert all(set(made) == {"name", "version", "entrypoint", "work_pool"} for made in DEPLOYMENTS.values())
    assert all(set(made["work_pool"]) == {"name"} for made in DEPLOYMENTS.values())


def test_every_stage_and_the_pipeline_have_a_deployment():
    assert set(DEPLOYMENTS) == {*STAGES, "r1-full-pipeline"}
    assert {
        "base", "rl-zero", "cold-start", "sft", "reasoning-rl", "rejection-sampling", "reward-models",
        "final-rl", "distill", "evaluate", "report", "r1-full-pipeline",
    } <= set(DEPLOYMENTS)  # fmt: skip


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_runs_the_flow_of_its_name_on_its_stages_pool(name):
    module, _, function = DEPLOYMENTS[name]["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(module), function)
    assert flow.name == name
    assert "preset" in flow.parameters.properties
    pool = STAGES[name].pool if name in STAGES else "cpu"
    assert DEPLOYMENTS[name]["work_pool"]["name"] == pool


def test_one_run_at_a_time_has_the_gpu():
    assert POOLS == {"cpu": None, "gpu-train": 3, "gpu-rollout": 3}
    assert {stage.pool for stage in STAGES.values()} == set(POOLS)


@pytest.mark.parametrize("setting", ["api.url", "plugins.enabled", "server.analytics_enabled"])
def test_prefect_toml_has_what_the_commands_need(setting):
    import tomllib

    section, key = setting.split(".")
    value = tomllib.loads(Path("prefect.toml").read_text())[section][key]
    assert value == {"url": "http://127.0.0.1:4200/api", "enabled": True, "analytics_enabled": False}[key]


@pytest.mark.slow
def test_importing_the_flows_costs_little_beyond_prefect():
    script = """
import json, sys, time
from prefect import flow, task
prefects = time.process_time()
import flows.r1_full_pipeline, flows.stage_flows
ours = time.process_time() - prefects
heavy = sorted({"torch", "transformers", "trl", "vllm", "duckdb", "matplotlib"} & set(sys.modules))
print(json.dumps({"heavy": heavy, "ours": ours, "prefects": prefects}))
"""
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
        for _ in range(5)
    ]
    assert runs[0]["heavy"] == []
    # Of the processor time that importing Prefect takes, about 2 s; what runs beside it adds to either.
    assert min(run["ours"] for run in runs) < 0.25 * min(run["prefects"] for run in runs)
