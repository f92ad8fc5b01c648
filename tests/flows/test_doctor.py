import sys

from typer.testing import CliRunner

from flows import cli, doctor
from flows.graph import load_pipeline

VLLM = {"r1-zero.engine": {"name": "vllm"}}


def findings(preset: str) -> dict[str, doctor.DoctorCheck]:
    return {finding.what: finding for finding in doctor.examine(load_pipeline(preset))}


def test_every_pinned_package_is_compared(preset):
    found = findings(preset())
    for package in ("prefect", "torch", "transformers", "trl", "pyarrow", "duckdb"):
        assert found[package].ok, found[package]
    assert found["prefect"].state == "3.7.7 (==3.7.7)"


def test_the_tiny_preset_asks_for_no_gpu_and_no_hub(preset):
    found = findings(preset())
    assert found["gpu"].ok
    assert "hub" not in found
    assert "vllm" not in found


def test_an_engine_that_needs_a_gpu_is_a_problem_without_one(preset, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    found = findings(preset(VLLM))
    assert not found["gpu"].ok
    assert found["gpu"].remedy == "use a machine with an NVIDIA GPU, or the preset tiny"
    assert "vllm" in found


def test_vllms_cpu_build_needs_no_gpu(preset, monkeypatch, tmp_path):
    named = tmp_path / "vllm-0.31.0+cpu.dist-info"
    named.mkdir()
    (named / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.31.0+cpu\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    found = findings(preset(VLLM))
    assert found["gpu"].ok
    assert found["vllm"].state == "0.31.0+cpu"


def test_a_hub_model_that_is_out_of_reach_is_a_problem(preset, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    hub = findings(preset({"base.model": "Qwen/Qwen2.5-Math-1.5B"}))["hub"]
    assert not hub.ok
    assert hub.state == "not reachable; to fetch: Qwen/Qwen2.5-Math-1.5B"
    assert "HF_ENDPOINT" in hub.remedy


def test_a_model_in_the_hubs_cache_needs_no_hub(preset, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    snapshot = tmp_path / "cache" / "models--Qwen--Qwen2.5-Math-1.5B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert "hub" not in findings(preset({"base.model": "Qwen/Qwen2.5-Math-1.5B"}))


def test_every_problem_has_a_remedy_and_sets_the_exit_code(preset, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = preset(VLLM)
    problems = [f for f in findings(path).values() if not f.ok]
    assert problems
    assert all(finding.remedy for finding in problems)
    shown = CliRunner().invoke(cli.app, ["doctor", "--preset", path])
    assert shown.exit_code == 1
    assert all(finding.remedy in shown.stdout for finding in problems)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_model_that_follows_a_branch_is_told_and_recorded(preset, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    path = preset({"base": {"model": "Qwen/Qwen2.5-Math-1.5B"}})
    told = "Qwen/Qwen2.5-Math-1.5B follows 'main', which can change"
    assert findings(path)["revision"].state == told
    assert told in CliRunner().invoke(cli.app, ["plan", "--preset", path]).stdout
    pinned = preset({"base": {"model": "Qwen/Qwen2.5-Math-1.5B", "revision": COMMIT}})
    assert "revision" not in findings(pinned)
    assert "which can change" not in CliRunner().invoke(cli.app, ["plan", "--preset", pinned]).stdout
    assert "revision" not in findings(preset()), "a folder has no revision"


def test_a_store_that_cannot_be_used_is_a_problem_with_what_to_do(preset, monkeypatch, tmp_path):
    assert findings(preset())["store"].ok
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("R1_STORE", str(tmp_path / "file"))
    found = findings(preset())["store"]
    assert (found.ok, found.remedy) == (False, "change that, or R1_STORE")
    assert "is a file" in found.state
    monkeypatch.setenv("R1_STORE", "nosuch://bucket/r1")
    found = findings(preset())["store"]
    assert not found.ok
    assert "cannot open the store nosuch://bucket/r1" in found.state


def test_root_with_a_closed_python_is_told_so_and_not_that_the_kernel_refuses(preset, monkeypatch):
    import tasks.sandbox

    layers = {"unprivileged_user": False, "network_namespace": False}
    monkeypatch.setattr(tasks.sandbox, "sandbox_layers", lambda: layers)
    found = findings(preset())
    assert "Python that user nobody can read" in found["sandbox: unprivileged_user"].remedy
    assert "kernel" in found["sandbox: network_namespace"].remedy


def test_packages_that_python_compiles_at_every_start_are_told(preset, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))  # where no byte code is
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert findings(preset())["byte code"].state == "kept from the first start on"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = findings(preset())["byte code"]
    assert found.ok  # it costs time and stops nothing
    assert found.state.startswith("not kept for torch, transformers, trl, ")
    assert " -m compileall -q -j 0 " in found.remedy
