"""A layer that recomputes its activations does not run its attention again."""

from collections import Counter
from functools import partial

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.training.models import compile_layers
from tasks.training.recompute import KERNELS, keep_attention

LAYERS = 3
IDS = torch.randint(0, 50, (1, 24), generator=torch.Generator().manual_seed(0))


class Calls(TorchDispatchMode):
    """How often each operator ran."""

    def __init__(self):
        super().__init__()
        self.counted = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.counted[operator] += 1
        return operator(*args, **(kwargs or {}))


def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
        attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def by_transformers(policy):
    policy.gradient_checkpointing_enable()


def by_accelerate(policy):
    """What `fsdp2_apply_ac` does to each layer."""
    layers = policy.model.layers
    for number in range(LAYERS):
        layers[number] = checkpoint_wrapper(layers[number], preserve_rng_state=False)


def gradients(policy):
    """Of every weight, and how often attention ran."""
    with Calls() as calls:
        policy(IDS, labels=IDS, use_cache=False).loss.backward()
    found = {name.replace("_checkpoint_wrapped_module.", ""): p.grad for name, p in policy.named_parameters()}
    return found, sum(calls.counted[kernel] for kernel in KERNELS)


@pytest.mark.parametrize("recomputing", [by_transformers, by_accelerate])
def test_attention_runs_once_a_layer_and_gradients_are_the_same(recomputing):
    plain, once = gradients(model())
    policy = model()
    recomputing(policy)
    assert (once, gradients(policy)[1]) == (LAYERS, 2 * LAYERS)
    policy.zero_grad()
    keep_attention(policy)
    kept, runs = gradients(policy)
    assert runs == LAYERS
    assert kept.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(kept[name], gradient, msg=partial("{}: {}".format, name))


def test_a_model_that_keeps_its_activations_is_left_alone():
    policy = model()
    keep_attention(policy)
    assert gradients(policy)[1] == LAYERS


@pytest.mark.slow
def test_compiled_layers_recompute_to_the_same_gradients():
    plain, _ = gradients(model())
    policy = model()
    compile_layers(policy)
    by_transformers(policy)
    keep_attention(policy)
    policy(IDS, labels=IDS, use_cache=False).loss.backward()
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], atol=1e-5, rtol=1e-4)
