"""Packing: which rows share a micro-batch, and that a packed row is what the row alone is."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from artifacts.tables import read_table
from tasks.rollout.decoding import ATTENTION
from tasks.sft.packing import PackedUpdates, dealt, layout, micro_batch, packed
from tasks.sft.tokens import encode, open_rows
from tasks.tokenizer import load_tokenizer
from tasks.training.attention import pack_inputs
from tasks.training.models import load_policy
from tests.families.bases import FAMILIES, write_base
from tests.sft.test_sft import trainer_of
from tests.worlds import write_sft

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(LENGTHS, st.integers(1, 60))
def test_every_row_is_packed_once_and_bins_keep_to_the_capacity(lengths, capacity):
    bins = packed(lengths, capacity)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    for rows in bins:
        assert sum(lengths[row] for row in rows) <= capacity or len(rows) == 1
    totals = [sum(lengths[row] for row in rows) for rows in bins]
    assert sum(total <= capacity / 2 for total in totals) <= 1  # else two would have been one


def test_a_row_goes_where_the_least_room_is_left():
    assert packed([5, 4, 6, 3, 2], 10) == [[2, 1], [0, 3, 4]]


@given(st.lists(st.integers(1, 40), min_size=8, max_size=32), st.integers(1, 60), st.sampled_from([1, 2, 4]))
def test_every_process_gets_as_many_bins(lengths, capacity, processes):
    lengths = lengths[: len(lengths) // processes * processes]
    shares = dealt(lengths, capacity, processes)
    assert len({len(bins) for bins in shares}) == 1
    assert sorted(row for bins in shares for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(rows for bins in shares for rows in bins)


@pytest.fixture
def rows(tiny_model, tmp_path):
    table = read_table(write_sft(tmp_path, 12) / "sft.parquet")
    encode([table], load_tokenizer(tiny_model), tmp_path)
    return open_rows(tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_a_packed_row_are_those_of_the_row_alone(name, tmp_path):
    """Sliding windows, learned positions and latent attention among them."""
    folder = write_base(FAMILIES[name], tmp_path / "base")
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION).eval()
    encode([read_table(write_sft(tmp_path, 5) / "sft.parquet")], tokenizer, tmp_path)
    rows = open_rows(tmp_path)
    batch = micro_batch(rows, range(5))
    with torch.no_grad():
        del batch["labels"]
        together = model(**batch, use_cache=False).logits[0]  # with a cache, transformers sees one row
        for row in range(5):
            ids = torch.tensor([rows.prompt(row) + rows.completion(row)])
            here = slice(int(rows.starts[row]), int(rows.starts[row + 1]))
            torch.testing.assert_close(together[here], model(input_ids=ids).logits[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("capacity", [1, 40, 10_000])
def test_gradients_of_a_packed_update_are_those_of_its_rows(
    capacity, at_once, rows, tiny_model, tmp_path, request
):
    """However it is packed: the mean over the completion tokens of the update."""
    if at_once == 2:
        request.getfixturevalue("one_thread")
    model = load_policy(tiny_model)
    plain = copy.deepcopy(model)
    losses = torch.zeros(())
    for row in range(len(rows)):
        ids = torch.tensor([rows.prompt(row) + rows.completion(row)])
        logprobs = plain(input_ids=ids).logits[0, :-1].log_softmax(-1)
        told = logprobs.gather(1, ids[0, 1:, None])[:, 0][len(rows.prompt(row)) - 1 :]
        assert len(told) == rows.completion_lengths[row]
        losses = losses - told.sum()
    loss = losses / int(rows.completion_lengths.sum())
    loss.backward()

    trainer = trainer_of(model, rows, tmp_path / "trainer", batch_size=12, micro_batch_tokens=capacity)
    found = trainer.training_step(model, trainer.train_dataset[0])
    torch.testing.assert_close(found, loss.detach(), atol=1e-6, rtol=1e-6)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_the_processes_share_an_update(rows):
    whole = PackedUpdates(rows, range(12), 6, 60)
    shared = PackedUpdates(rows, range(12), 6, 60, processes=2)
    assert len(whole) == 2
    assert len(shared) == 4

    def tokens(items):
        return sorted(
            t for item in items for micro in item["micro_batches"] for t in micro["input_ids"][0].tolist()
        )

    assert tokens([shared[0], shared[1]]) == tokens([whole[0]])
    assert shared[0]["completion_tokens"] == shared[1]["completion_tokens"] == whole[0]["completion_tokens"]


def test_a_token_sees_its_own_row_up_to_itself():
    positions = torch.tensor([[*range(5), *range(90), 0]])
    config = LlamaConfig(attn_implementation="sdpa")
    found = pack_inputs(layout({"position_ids": positions}), config, torch.device("cpu"))
    row = torch.tensor([0] * 5 + [1] * 90 + [2])
    assert torch.equal(found["attention_mask"][0, 0], (row[:, None] == row[None, :]).tril())
