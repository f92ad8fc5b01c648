"""Which fine-tuning fits which machine."""

import json

import pytest
from typer.testing import CliRunner

from flows import cli, doctor, fitting
from flows.fitting import ROOM, Fit, fit_of
from flows.graph import load_pipeline
from tasks.base.stage import BaseConfig
from tasks.sft.stage import SFTConfig

QWEN = BaseConfig(model="Qwen/Qwen2.5-Math-7B")
PAPER = SFTConfig(epochs=3, batch_size=64, max_length=32768, bf16=True)
CONFIG = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


def test_a_7b_needs_cards_that_share_it_or_adapters():
    fit = fit_of("student", QWEN, PAPER)
    assert isinstance(fit, Fit)
    assert fit.as_set > 16 * 7.6e9 / 2**30 > ROOM
    assert fit.cards == [4, 8]
    assert fit.shared_out[8] < fit.shared_out[4] < fit.shared_out[2] < fit.shared_out[1]
    assert fit.lora < ROOM
    assert "no (" in fit.cells()[3]


def test_a_model_on_this_machine_is_read_and_another_kind_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    fit = fit_of("student", BaseConfig(model=str(tmp_path)), PAPER)
    assert fit == fit_of("student", QWEN, PAPER)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 8}))
    said = fit_of("student", BaseConfig(model=str(tmp_path)), PAPER)
    assert said == "student: memory is not estimated for a gpt2: its config has no 'num_attention_heads'"
    unknown = fit_of("student", BaseConfig(model="someone/unknown"), PAPER)
    assert unknown == "student: the config.json of someone/unknown is not here, so its memory is unknown"


def test_the_table_names_every_fine_tuning_of_the_preset_and_every_student():
    shown = CliRunner().invoke(cli.app, ["estimate", "--preset", "qwen-7b", "--fits"])
    assert shown.exit_code == 0, shown.output
    for name in ("dev1", "dev3", "qwen-1.5b-distilled", "qwen-7b", "llama-70b", "tiny-student"):
        assert name in shown.output
    assert all(isinstance(fit, Fit) for fit in fitting.student_fits())


def test_the_students_of_the_paper_fit_where_their_files_say():
    fits = {fit.name: fit for fit in fitting.student_fits()}
    for name in ("qwen-1.5b", "qwen-7b", "llama-8b", "qwen-14b"):
        assert fits[name].processes in fits[name].cards, name
        assert fits[name].as_set <= ROOM
    assert fits["qwen-32b"].cards == fits["llama-70b"].cards == []


@pytest.mark.parametrize(
    ("cards", "remedy"),
    [
        (4, ""),
        (8, ""),
        (2, "set dev1.lora: {} and dev1.launch: {processes: 1}, or use more cards"),
    ],
)
def test_the_doctor_compares_with_the_cards_of_this_machine(cards, remedy, monkeypatch):
    monkeypatch.setattr(doctor, "gpu_names", lambda: ["NVIDIA H100 80GB HBM3, 81559 MiB"] * cards)
    found = {check.what: check for check in doctor._fine_tuning(load_pipeline("qwen-7b"))}
    assert found["memory: dev1"].ok == (not remedy)
    assert found["memory: dev1"].remedy == remedy
