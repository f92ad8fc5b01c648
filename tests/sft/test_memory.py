"""The estimate of memory against the tensors that are alive in real steps on a CPU."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.sft import train
from tasks.sft.memory import ROOM, has_room_for_attention, sft_memory
from tasks.sft.stage import SFTConfig
from tasks.sft.tokens import TokenRows
from tasks.sft.train import build_trainer
from tasks.tokenizer import load_tokenizer
from tasks.training.memory import ModelShape
from tasks.training.recompute import KERNELS
from tests.training.test_recompute import Calls

TINY_BASE = Path("tasks/tiny_world/weights/tiny-base")
WIDE = ModelShape(512, 1376, 2, 8, 2, 64, 9000, tied=False)
DEEP = ModelShape(128, 384, 6, 4, 4, 32, 700, tied=True)
SMALL = ModelShape(192, 512, 4, 3, 3, 64, 3000, tied=True)


def model_of(shape: ModelShape) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads, head_dim=shape.head_size,
        vocab_size=shape.vocabulary, tie_word_embeddings=shape.tied, max_position_embeddings=8192,
        attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def rows_of(row_tokens: int, count: int) -> TokenRows:
    end = load_tokenizer(TINY_BASE).eos_token_id
    starts = np.arange(count + 1) * row_tokens
    ids = np.full(starts[-1], 5, np.int32)
    ids[starts[1:] - 1] = end
    return TokenRows(ids, starts, starts[:-1] + 1)


def measured(shape: ModelShape, config: SFTConfig, folder: Path) -> int:
    """Bytes of the tensors alive at the peak of an update after the first one."""
    tokens = config.micro_batch_tokens
    rows = rows_of(tokens // 2, 4)  # an update of two micro-batches
    trainer = build_trainer(config, folder, model_of(shape), load_tokenizer(TINY_BASE), rows, np.arange(4))
    if trainer.args.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable()
    optimizer = trainer.create_optimizer()
    model, update = trainer.accelerator.prepare_model(trainer.model), trainer.train_dataset[0]
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    tracker = MemTracker()
    tracker.track_external(trainer.model, optimizer)
    single = {**update, "micro_batches": update["micro_batches"][:1]}  # it follows one pass through modules
    with tracker:
        trainer.training_step(model, single)
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        (WIDE, {}), (DEEP, {"recompute": True}), (SMALL, {"bf16": True}),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            (WIDE, {"recompute": True}), (DEEP, {"bf16": True}), (SMALL, {"bf16": True, "recompute": True}),
        )),
    ],
)  # fmt: skip
def test_the_estimate_is_within_15_percent_of_what_is_alive(shape, settings, tmp_path):
    config = SFTConfig(epochs=2, batch_size=4, micro_batch_tokens=256, max_length=256, **settings)
    keeps = bool(config.recompute)  # there is room on this machine
    estimate = sft_memory(shape, config, on_gpu=False, keeps_attention=keeps).peak
    assert estimate == pytest.approx(measured(shape, config, tmp_path), rel=0.15)


def test_parameters_are_those_of_the_model():
    for shape in (WIDE, DEEP, SMALL):
        assert shape.parameters == model_of(shape).num_parameters()


def test_attention_is_kept_where_the_estimate_leaves_room():
    config = SFTConfig(epochs=1, batch_size=4, micro_batch_tokens=256, max_length=256, recompute=True)
    least, most = (sft_memory(DEEP, config, keeps_attention=kept).peak for kept in (False, True))
    # A token keeps, of each of 6 layers, 4 heads of 32 values in float32 and their log-sum-exp.
    assert most - least == 256 * 6 * 4 * (32 + 1) * 4
    assert has_room_for_attention(DEEP, config, int(most / ROOM) + 1)
    assert not has_room_for_attention(DEEP, config, int(most / ROOM) - 1)


@pytest.mark.parametrize(("size", "kept"), [(2**40, True), (2**20, False)])
def test_a_trainer_keeps_attention_only_with_room(size, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(train.psutil, "virtual_memory", lambda: SimpleNamespace(available=size))
    config = SFTConfig(epochs=2, batch_size=4, micro_batch_tokens=256, max_length=256, recompute=True)
    rows = rows_of(128, 4)
    trainer = build_trainer(config, tmp_path, model_of(DEEP), load_tokenizer(TINY_BASE), rows, np.arange(4))
    trainer.model.gradient_checkpointing_enable()
    with Calls() as calls:
        trainer.training_step(trainer.model, trainer.train_dataset[0])
    runs = sum(calls.counted[kernel] for kernel in KERNELS)
    passes = len(trainer.train_dataset[0]["micro_batches"])
    assert runs == passes * DEEP.layers * (1 if kept else 2)
