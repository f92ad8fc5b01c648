"""A layer that recomputes its activations does not run its attention again."""

from collections import Counter
from functools import partial

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.profiler import ProfilerActivity, profile
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


def kept_bytes(policy):
    """Of the numbers that are kept for the backward pass beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = policy.model(IDS, use_cache=False).last_hidden_state
    assert hidden.requires_grad
    return sum(kept.values())


def products(work):
    """How many matrix products `work` runs, attention's aside."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    return sum(event.count for event in found.key_averages() if event.key == "aten::mm")


@pytest.mark.slow
@pytest.mark.parametrize("keeps_attention", [False, True])
def test_a_compiled_layer_recomputes_all_but_its_last_product(keeps_attention):
    """To the same gradients, and it keeps a fraction of what the backward pass needs."""
    plain, _ = gradients(model())
    whole, compiled = model(), model()
    compile_layers(whole)
    compile_layers(compiled, recompute=True, keeps_attention=keeps_attention)
    work = [partial(step, policy) for policy in (whole, compiled)]
    for each in work:
        each()  # compiles
    for name, parameter in compiled.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], atol=1e-5, rtol=1e-4)
    # Seven a layer; the results of the last are added to the stream, and no gradient needs them.
    assert products(work[1]) - products(work[0]) == (7 - 1) * LAYERS
    values = IDS.numel() * 32 * 4  # bytes of a layer's input, and of what attention returns
    kept, least = kept_bytes(compiled), LAYERS * values * (2 if keeps_attention else 1)
    assert least <= kept < least + LAYERS * values  # what is around the layers takes some, too
    assert kept_bytes(model()) > 4 * kept  # of layers that are not compiled


def step(policy):
    policy.zero_grad()
    policy(IDS, labels=IDS, use_cache=False).loss.backward()
