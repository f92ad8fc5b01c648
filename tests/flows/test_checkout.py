"""Deployments and the folder that they run in: own code, or one sentence."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from flows import checkout, daemons, prefect_plugin, services
from tasks import source_code
from tasks.supervise import trees


def test_deployments_name_no_folder_and_carry_the_version_of_the_code():
    document = yaml.safe_load(Path("prefect.yaml").read_text())
    assert document["pull"] == [{"flows.checkout.stay": {}}]  # null would add the registrar's folder
    assert {made["version"] for made in document["deployments"]} == {"{{ $R1_CODE }}"}
    assert checkout.stay() == {}


def test_prefect_deploy_finds_the_version(monkeypatch):
    class Context:
        api_url = "http://127.0.0.1:1/api"

    monkeypatch.setattr(sys, "orig_argv", ["prefect", "--no-prompt", "deploy", "--all"])
    variables = prefect_plugin.setup_environment(ctx=Context()).env
    assert source_code.is_this_code(variables[checkout.CODE])
    monkeypatch.setattr(sys, "orig_argv", ["prefect", "deployment", "ls"])
    assert checkout.CODE not in prefect_plugin.setup_environment(ctx=Context()).env


@pytest.mark.parametrize("version", ["", "None", "0123456789ab-0123456789ab", "-"])
def test_other_code_is_refused_in_one_sentence(version):
    said = checkout.objection(version)
    assert "the deployment was registered with other code" in said
    assert "`r1 up`" in said
    assert "\n" not in said


def test_this_code_runs_wherever_it_lies():
    assert checkout.objection(source_code.code_version()) == ""


def test_an_edited_checkout_registers_anew_and_a_moved_one_stays(tmp_path, monkeypatch):
    first, moved = tmp_path / "first", tmp_path / "moved"
    for name in ("flows", "tasks", "artifacts"):
        shutil.copytree(name, first / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy("prefect.yaml", first)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.chdir(first)
    before = services._definitions()
    first.rename(moved)
    monkeypatch.chdir(moved)
    assert services._definitions() == before
    with Path("tasks/rewards/terms/accuracy.py").open("a") as file:
        file.write("CHANGED = 1\n")
    assert services._definitions() != before


def test_workers_of_another_folder_are_not_used(tmp_path, home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.chdir(tmp_path)
    process = daemons.start("workers", ["tests.flows.sleeper"], dict(os.environ))
    try:
        services._refuse_other_checkout()
        monkeypatch.chdir("/")
        with pytest.raises(services.ServiceError, match=rf"started in {tmp_path}, and this is /: `r1 down`"):
            services._refuse_other_checkout()
    finally:
        trees.end(daemons.marked(), 5)
    assert not trees.is_alive(process)


def test_services_need_a_checkout_and_its_own_code(tmp_path, monkeypatch):
    services.require_checkout()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(services.ServiceError, match=r"prefect.toml is not here: run this in the repository"):
        services.require_checkout()
    for name in ("prefect.toml", "prefect.yaml", "flows"):
        (tmp_path / name).touch()
    with pytest.raises(services.ServiceError, match=r"this `r1` runs the code of .*install this checkout"):
        services.require_checkout()
