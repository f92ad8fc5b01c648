import subprocess
import sys

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from flows import cli, daemons, distillation

BAD_PRESETS = [
    ({"r1-zero.stepz": 5}, ["r1-zero.stepz is not a setting", "did you mean steps?"]),
    ({"r1-zero.steps": 0}, ["r1-zero.steps = 0", "must be greater than or equal to 1"]),
    ({"dev1.learning_rate": "fast"}, ["dev1.learning_rate = 'fast'", "must be a valid number"]),
    ({"r1-zero.launch": {"processes": 3}},
     ["r1-zero: ", "launch.processes 3 does not divide", "= 64: choose a divisor"]),
    ({"dev3.launch": {"processes": 5}}, ["dev3: ", "launch.processes 5 does not divide batch_size 32"]),
    ({"base.model": "./no/such/model"}, ["base.model = './no/such/model' does not exist: give a folder"]),
    ({"problems.sources": [{"name": "parquet", "path": "no"}]}, ["sources.0.path = 'no' does not exist"]),
    ({"student": "nobody"}, ["student 'nobody' has no file in configs/students: use one of "]),
]  # fmt: skip


@pytest.fixture
def r1(monkeypatch):
    """Runs a command line in this process."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return lambda *words: CliRunner().invoke(cli.app, list(words))


def complaint(result) -> str:
    """The one line of a refused command."""
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit), result.exception
    (line,) = result.stderr.strip().splitlines()
    return line.removeprefix("r1: ")


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(("changes", "parts"), BAD_PRESETS)
def test_a_bad_preset_is_one_sentence_and_nothing_starts(command, changes, parts, preset, r1, home):
    path = preset(changes)
    said = complaint(r1(command, "--preset", path))
    assert all(part in said for part in parts), said
    if "student" not in changes:
        assert said.startswith(path)
    assert not home.exists()


def test_an_unknown_preset_is_answered_with_the_known_ones():
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "--preset", "nope"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("r1: preset 'nope' has no file in configs: use one of paper, ")
    assert len(done.stderr.splitlines()) == 1


def test_broken_yaml_names_its_line(tmp_path, r1):
    path = tmp_path / "broken.yaml"
    path.write_text("problems: {}\nbase: {model: [}\n")
    assert f"{path} line 2: " in complaint(r1("run", "--preset", str(path)))
    path.write_text("problems: {}\nproblems: {}\n")
    assert "line 2: key 'problems' stands twice" in complaint(r1("run", "--preset", str(path)))
    assert "does not exist" in complaint(r1("run", "--preset", str(tmp_path / "none.yaml")))


def test_run_outside_the_repository_says_where_to_go(preset, r1, tmp_path, monkeypatch):
    path = preset()
    monkeypatch.chdir(tmp_path)
    assert "prefect.toml is not here: run this in the repository's folder" in complaint(
        r1("run", "--preset", path)
    )


def test_distilling_qwen_7b_stops_before_any_work(r1, home, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "no-hub-cache"))
    monkeypatch.setenv("PATH", str(home))  # no nvidia-smi
    result = r1("distill", "qwen-7b")
    said = complaint(result)
    for part in ("cannot distill qwen-7b now", "no GPU here", "hub is out of reach", "has no mixture yet"):
        assert part in said
    for setting in ("Qwen/Qwen2.5-Math-7B", "8e-05, cosine to 8e-06", "64", "32,768 tokens"):
        assert setting in result.stdout
    assert daemons.marked() == []
    assert not (home / "services").exists()


def test_distilling_the_tiny_student_needs_only_a_mixture(built, preset, store, r1):
    config = distillation.settle("tiny-student", preset(), store)
    assert (config.preset, config.missing) == (preset(), "")
    assert config.mixture == store.get_ref(built.ref_name("mixture"))
    for words in ([], ["--preset", "tiny"]):
        said = complaint(r1("distill", "tiny-student", *words))
        assert "`r1 run --preset tiny` makes one" in said
        assert f"there is {built.ref_name('mixture')}: name its preset file by --preset" in said
    assert "student 'gpt' has no file" in complaint(r1("distill", "gpt"))


def test_a_student_file_of_ones_own(built, preset, store, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"base": {"model": "tasks/tiny_world/weights/tiny-student"}}))
    settled = distillation.settle(str(path), preset(), store)
    assert settled.ref_name == built.ref_name("mine-distilled")
    assert settled.config.distill.batch_size == 64


@pytest.mark.slow
def test_a_submission_that_fails_says_why(r1, monkeypatch):
    from flows import api, services
    from flows.services import ServiceError

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with pytest.raises(ServiceError, match="`prefect deployment run nothing` failed: "):
        api.submit("nothing", {})
    with services.client() as client, pytest.raises(httpx.ConnectError):
        api.state(client, "00000000-0000-0000-0000-000000000000")
