"""How reward models read many responses, and what they make of their logits."""

import pytest
import torch

from tasks.reward_models.classifiers import _classifier
from tasks.rewards import preference_models
from tasks.rewards.preference_models import PreferenceModel, batches, keep_score_range
from tasks.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([5] * 130, [64, 64, 2]),
        ([4_000] * 5, [4, 1]),
        ([100, 8_000, 8_000, 100, 9_000], [2, 2, 1]),  # padded to the longest: 3 x 8,000 are too many
        ([30_000, 10], [1, 1]),
        ([], []),
    ],
)
def test_a_pass_has_64_rows_or_16384_tokens_with_padding(lengths, sizes):
    rows = [[number] * length for number, length in enumerate(lengths)]
    found = list(batches(rows))
    assert [len(batch) for batch in found] == sizes
    assert [row for batch in found for row in batch] == rows


def test_logits_and_probabilities_do_not_depend_on_the_batches(tiny_model, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(tiny_model)
    model = _classifier(tiny_model, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = [("what is 1 + 1 ?", " two" * n) for n in (1, 9, 2, 7)]
    logits = PreferenceModel.load(tmp_path).logits(texts)
    assert logits.shape == (4,)
    assert logits.std() > 0
    keep_score_range(tmp_path, 0.25, 2.0)
    loaded = PreferenceModel.load(tmp_path)
    monkeypatch.setattr(preference_models, "_TOKENS_AT_ONCE", 20)
    torch.testing.assert_close(loaded.logits(texts), logits)
    expected = ((logits - 0.25) / 2.0).sigmoid().tolist()
    assert loaded.probabilities(texts) == pytest.approx(expected)
