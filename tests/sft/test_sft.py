"""The SFT stage on a small model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from artifacts.tables import read_table, write_table
from tasks.job import StopRequested
from tasks.kinds import Kind
from tasks.sft import tokens
from tasks.sft.stage import SFTConfig
from tasks.sft.tokens import encode, open_rows, token_rows
from tasks.sft.train import _check_end, build_trainer, run
from tasks.tables import SFT as SFT_TABLE
from tasks.tokenizer import Codec, load_tokenizer
from tasks.training.models import load_policy
from tasks.training.row_order import row_order
from tasks.training.settings import LaunchSettings
from tests.jobs import local_job
from tests.trained import SFT
from tests.worlds import write_sft

slow = pytest.mark.slow


def metric(job, name: str) -> list[float]:
    table = read_table(job.draft / "metrics.parquet").to_pylist()
    return [row["value"] for row in sorted(table, key=lambda r: r["step"]) if row["name"] == name]


def test_each_epoch_shows_every_row_once_and_batches_are_sorted():
    lengths = [3, 9, 1, 7, 5, 2]
    order = row_order(lengths, epochs=2, batch_size=3, seed=0)
    assert len(order) == 12
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))
    assert order[:6] != order[6:]
    for start in range(0, 12, 3):
        assert sorted(lengths[i] for i in order[start : start + 3]) == [
            lengths[i] for i in order[start : start + 3]
        ]


@pytest.mark.parametrize(("epochs", "steps"), [(0.1, 1), (1, 2), (1.5, 3), (2, 4)])
def test_steps_are_epochs_times_rows(epochs, steps):
    assert len(row_order([1] * 6, epochs, batch_size=3, seed=0)) == 3 * steps


def trainer_of(model, rows, folder, **settings):
    """A trainer on all of `rows`."""
    config = SFTConfig(**({"epochs": 1} | settings))
    tokenizer = load_tokenizer(Path(model.name_or_path))
    return build_trainer(config, folder, model, tokenizer, rows, np.arange(len(rows)))


def test_loss_is_on_the_completion_and_its_end_token(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    encode([read_table(write_sft(tmp_path, 8) / "sft.parquet")], tokenizer, tmp_path)
    trainer = trainer_of(
        load_policy(tiny_model), open_rows(tmp_path), tmp_path / "trainer", batch_size=4, micro_batch_tokens=1
    )
    update = trainer.train_dataset[0]
    assert len(update["micro_batches"]) == 4
    counted = 0
    for shown in update["micro_batches"]:
        ids, labels = shown["input_ids"][0], shown["labels"][0]
        text = tokenizer.decode(labels[labels != -100])
        assert text.startswith(" <think>")
        assert text.endswith("</answer><|end|>")
        assert tokenizer.decode(ids).startswith("User:")
        assert tokenizer.decode(ids).endswith(text)
        counted += int((labels != -100).sum())
    assert update["completion_tokens"] == counted


def test_rows_are_encoded_once_for_a_dataset_and_a_tokenizer(untrained, tmp_path, monkeypatch):
    dataset = write_sft(tmp_path / "dataset", 2_500)
    job = local_job(tmp_path, "dev1", "sft", {"dataset": (Kind.dataset, dataset)})
    tokenizer = load_tokenizer(untrained / "model")
    first = token_rows(job, tokenizer)
    assert len(first) == 2_500
    table = read_table(dataset / "sft.parquet").to_pylist()
    for row in (0, 1_500, 2_499):
        assert tokenizer.decode(first.prompt(row)) == table[row]["prompt"]
        assert tokenizer.decode(first.completion(row)) == table[row]["completion"] + "<|end|>"
    size = sum(p.stat().st_size for p in (job.state / "tokens").rglob("ids.int32"))
    assert size == 4 * len(first.ids)

    monkeypatch.setattr(tokens, "encode", None)
    assert np.array_equal(token_rows(job, tokenizer).ids, first.ids)
    tokenizer.chat_template = "another"
    with pytest.raises(TypeError, match="not callable"):
        token_rows(job, tokenizer)


def test_rows_whose_encoding_was_interrupted_are_encoded_anew(untrained, tmp_path):
    dataset = write_sft(tmp_path / "dataset", 4)
    job = local_job(tmp_path, "dev1", "sft", {"dataset": (Kind.dataset, dataset)})
    tokenizer = load_tokenizer(untrained / "model")
    job.stop.set()
    with pytest.raises(StopRequested, match="while its rows were encoded"):
        token_rows(job, tokenizer)
    (torn,) = (job.state / "tokens").iterdir()
    (torn / "ids.int32").write_bytes(b"torn")
    job.stop.clear()
    assert len(token_rows(job, tokenizer)) == 4
    assert not torn.exists()


def test_a_completion_with_special_tokens_inside_is_seen(tiny_model):
    codec = Codec(load_tokenizer(tiny_model))
    end, pad = codec.tokenizer.eos_token_id, codec.tokenizer.pad_token_id
    fine, broken, endless = [9, 10, end], [pad, 9, end], [9, 10]
    assert _check_end([fine, endless, fine, broken], codec) == (0.75, 0.25)
    with pytest.raises(RuntimeError, match=r"special tokens such as '<\|pad\|>' into 2 of 3 completions"):
        _check_end([broken, fine, broken], codec)
    with pytest.raises(RuntimeError, match="ended none of 2 completions"):
        _check_end([endless, endless], codec)


def test_a_chat_prompt_is_rendered_by_the_students_own_template(tiny_model, tmp_path):
    """The mixture may come from a model of another family."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}ask : {{ m['content'] }} answer :{% endfor %}"
    row = {
        "problem_id": "a", "domain": "math", "language": "en", "prompt": "<|teacher|>what is 1 + 2?<|end|>",
        "completion": " <answer> 3 </answer>", "source": "test", "question": "what is 1 + 2?",
        "template": "chat",
    }  # fmt: skip
    write_table(tmp_path / "sft.parquet", [row], SFT_TABLE)
    encode([read_table(tmp_path / "sft.parquet")], tokenizer, tmp_path)
    rows = open_rows(tmp_path)
    assert tokenizer.decode(rows.prompt(0)) == "ask : what is 1 + 2? answer :"
    assert tokenizer.decode(rows.completion(0)) == " <answer> 3 </answer><|end|>"


def test_a_dataset_that_does_not_fit_is_refused(untrained, tmp_path):
    dataset = write_sft(tmp_path / "dataset", 4)
    inputs = {"checkpoint": (Kind.checkpoint, untrained), "dataset": (Kind.dataset, dataset)}
    with pytest.raises(ValueError, match="none of the 4 rows fits 5 tokens"):
        run(SFT.model_copy(update={"max_length": 5}), local_job(tmp_path, "dev1", "sft", inputs))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"optimizer": "adamw_8bit"},
            "adamw_8bit needs the package torchao, which is not installed",
        ),
        (
            {"launch": LaunchSettings(processes=2)},
            "this machine has 1 GPUs: lower dev1.launch.processes",
        ),
    ],
)
def test_what_this_machine_lacks_is_said_before_anything_is_trained(
    settings, sentence, untrained, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    inputs = {
        "checkpoint": (Kind.checkpoint, untrained),
        "dataset": (Kind.dataset, write_sft(tmp_path / "dataset", 4)),
    }
    with pytest.raises(ValueError, match=sentence):
        run(SFT.model_copy(update=settings), local_job(tmp_path, "dev1", "sft", inputs))


@slow
def test_the_loss_falls_and_the_model_learns_to_end(fine_tuned):
    loss = metric(fine_tuned, "loss")
    assert len(loss) == fine_tuned.headline["steps"] == 75
    assert sum(loss[-5:]) < 0.3 * sum(loss[:5])
    assert fine_tuned.headline["stop_share"] == 1.0
    rate = metric(fine_tuned, "learning_rate")
    assert rate[0] == SFT.learning_rate
    assert rate[-1] == pytest.approx(0.1 * SFT.learning_rate, rel=0.05)


@slow
def test_the_saved_model_loads_as_it_was_trained(fine_tuned):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = fine_tuned.draft / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("User: what is 1 + 2? Assistant:", return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**ids, max_new_tokens=30, do_sample=False)
    text = tokenizer.decode(written[0])
    assert text.count("<answer>") == 1
    assert text.endswith("<|end|>")
    suffixes = sorted(p.suffix for p in folder.iterdir())
    assert suffixes == [".jinja"] + [".json"] * 4 + [".safetensors"]
    chat = [{"role": "user", "content": "what is 1 + 2?"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "User: what is 1 + 2? Assistant:"


@slow
def test_a_stopped_run_goes_on_to_the_same_weights(untrained, tmp_path):
    dataset = write_sft(tmp_path / "dataset", 96)
    inputs = {"checkpoint": (Kind.checkpoint, untrained), "dataset": (Kind.dataset, dataset)}
    config = SFT.model_copy(update={"epochs": 3})
    whole = local_job(tmp_path, "whole", "sft", inputs)
    run(config, whole)

    stopped = local_job(tmp_path, "stopped", "sft", inputs)
    token_rows(stopped, load_tokenizer(untrained / "model"))
    stopped.stop.set()
    with pytest.raises(StopRequested, match="stopped at step 1 of 9"):
        run(config, stopped)
    stopped.stop.clear()
    run(config, stopped)
    ours, theirs = (load_policy(job.draft / "model").state_dict() for job in (stopped, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert metric(stopped, "loss") == metric(whole, "loss")
