"""The weights that an engine is given."""

import copy

import torch
from peft import LoraConfig, get_peft_model

from tasks.rollout.weights import buckets, folder_weights
from tasks.training.models import load_policy
from tasks.training.sharding import policy_weights


def test_a_plain_models_weights_are_its_folders(tiny_model):
    ours, theirs = dict(policy_weights(load_policy(tiny_model))), dict(folder_weights(tiny_model))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_adapters_are_merged_into_a_copy(tiny_model):
    torch.manual_seed(0)
    adapters = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_policy(tiny_model), adapters)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            parameter.data.normal_()
    before = copy.deepcopy(model.state_dict())
    given = dict(policy_weights(model))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    merged = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    assert given.keys() == merged.keys()
    for name, weight in given.items():
        torch.testing.assert_close(weight, merged[name].detach(), atol=1e-6, rtol=1e-6)


def test_buckets_keep_the_order_and_the_size():
    weights = [(str(i), torch.zeros(n)) for i, n in enumerate((2, 2, 1, 9, 1, 3))]
    found = list(buckets(iter(weights), size=4 * 4))
    assert [[name for name, _ in bucket] for bucket in found] == [["0", "1"], ["2"], ["3"], ["4", "5"]]
