"""The SFT stage on a small model."""

import pytest
import torch

from artifacts.tables import read_table, write_table
from tasks.job import StopRequested
from tasks.kinds import Kind
from tasks.sft.stage import SFTConfig
from tasks.sft.train import _check_end, build_trainer, encode, run
from tasks.tables import SFT as SFT_TABLE
from tasks.tokenizer import Codec, load_tokenizer
from tasks.training.models import load_policy
from tasks.training.row_order import row_order
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


def test_loss_is_on_the_completion_and_its_end_token(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    rows = encode(read_table(write_sft(tmp_path, 8) / "sft.parquet"), tokenizer)
    config = SFTConfig(epochs=1, batch_size=4, micro_batch_size=2)
    trainer = build_trainer(config, tmp_path / "trainer", load_policy(tiny_model), tokenizer, rows)
    shown = trainer.train_dataset[0]
    trained = [i for i, label in zip(shown["input_ids"], shown["labels"], strict=True) if label != -100]
    text = tokenizer.decode(trained)
    assert text.startswith(" <think>")
    assert text.endswith("</answer><|end|>")
    assert tokenizer.decode(shown["input_ids"]).startswith("User:")


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
    (encoded,) = encode(read_table(tmp_path / "sft.parquet"), tokenizer)
    assert tokenizer.decode(encoded.prompt) == "ask : what is 1 + 2? answer :"
    assert tokenizer.decode(encoded.completion) == " <answer> 3 </answer><|end|>"


def test_a_dataset_that_does_not_fit_is_refused(untrained, tmp_path):
    dataset = write_sft(tmp_path / "dataset", 4)
    inputs = {"checkpoint": (Kind.checkpoint, untrained), "dataset": (Kind.dataset, dataset)}
    with pytest.raises(ValueError, match="none of the 4 rows fits 5 tokens"):
        run(SFT.model_copy(update={"max_length": 5}), local_job(tmp_path, "dev1", "sft", inputs))


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
    stopped.stop.set()
    with pytest.raises(StopRequested, match="stopped at step 1 of 9"):
        run(config, stopped)
    stopped.stop.clear()
    run(config, stopped)
    ours, theirs = (load_policy(job.draft / "model").state_dict() for job in (stopped, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert metric(stopped, "loss") == metric(whole, "loss")
