"""TRL's experimental AsyncGRPOTrainer for `benchmarks.gpu_async`, which starts it.

What was changed in TRL's trainer, and nothing else:

- its attention kernel (FlashAttention 3, fetched from a hub) is PyTorch's flash kernel, called with the same
  arguments; its tree of prefixes and the keys it gathers for the kernel are as they are. Before it trains,
  the kernel is compared with a dense computation: `CHECK`.
- its worker asks for `ignore_eos`, and a completion is its text: a model without a chat template has no
  parser of answers, without which the worker does not start. The chat template given to it puts the prompt
  as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset

from benchmarks.rl_step import PROBLEMS, digits
from tasks.rl.prompts import Prompts
from tasks.rl.stage import RLConfig
from tasks.rollout.server import Server
from tasks.tokenizer import Codec, load_tokenizer
from tasks.training.attention import Segments, flash_backward, flash_forward

MICRO_BATCH = {"w1": 64, "w2": 8, "dry": 8}
"""Completions of a pass: 20,600, 8,500 and about 200 tokens once their prompts are shared."""
PATIENCE = 3_600.0
"""Seconds that a trainer waits for its server; the limit of a contestant comes before it."""
_PROMPT_AS_IT_IS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def digits_in_messages(completions: list[list[dict[str, Any]]], **_: Any) -> list[float]:
    """`digits` of conversations, as TRL's worker gives them; it is found by name in the worker's process."""
    return digits(["".join(message["content"] for message in given) for given in completions])


def as_text(tokenizer: Any, ids: list[int], prefix: Any = None, tools: Any = None) -> dict[str, str]:
    """What TRL's `parse_response` returns where an answer cannot be parsed."""
    return {"role": "assistant", "content": tokenizer.decode(ids, skip_special_tokens=True)}


def endless_worker() -> type:
    """TRL's rollout worker with an own loop in its process."""
    from trl.experimental.async_grpo.async_rollout_worker import AsyncRolloutWorker

    return type("EndlessWorker", (AsyncRolloutWorker,), {"_loop_cls": EndlessLoop})


class EndlessLoop:
    """TRL's loop in the worker's process, made there: it asks for completions of the full length.

    It stands for the class, so that importing this module does not import TRL's trainer.
    """

    def __new__(cls, **given: Any) -> Any:
        from trl.experimental.async_grpo import async_rollout_worker as worker

        class Loop(worker._AsyncRolloutLoop):
            async def _post(self, path: str, payload: dict[str, Any], *rest: Any, **named: Any) -> Any:
                return await super()._post(path, payload | {"ignore_eos": True}, *rest, **named)

        worker.parse_response = as_text
        return Loop(**given)


class TreeKernel(torch.autograd.Function):
    """The kernel as `tasks.training.attention` calls it: each piece of queries has keys of its own, and where
    there are more keys than queries, the last ones of both are at the same place."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Segments, keys: Segments,
        scale: float,
    ) -> torch.Tensor:  # fmt: skip
        out, lse = flash_forward(q, k, v, queries, keys, True, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.given = queries, keys, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, lse = ctx.saved_tensors
        queries, keys, scale = ctx.given
        found = flash_backward(grad.contiguous(), q, k, v, out, lse, queries, keys, True, scale)
        return *found, None, None, None


def with_kernel(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts_q: torch.Tensor, starts_k: torch.Tensor,
    longest_q: int, longest_k: int, softmax_scale: float, **_: Any,
) -> torch.Tensor:  # fmt: skip
    """FlashAttention's `flash_attn_varlen_func`, causal and without a window, by PyTorch's kernel."""
    queries, keys = Segments(starts_q, longest_q), Segments(starts_k, longest_k)
    return TreeKernel.apply(q, k, v, queries, keys, softmax_scale)


def densely(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts_q: torch.Tensor, starts_k: torch.Tensor,
    longest_q: int, longest_k: int, softmax_scale: float, **_: Any,
) -> torch.Tensor:  # fmt: skip
    """The same piece by piece, on any device."""
    pieces = []
    for piece in range(len(starts_q) - 1):
        some = [
            x[starts[piece] : starts[piece + 1]].transpose(0, 1)
            for x, starts in ((q, starts_q), (k, starts_k), (v, starts_k))
        ]
        asked, seen = some[0].shape[1], some[1].shape[1]
        mask = torch.ones(asked, seen, dtype=torch.bool, device=q.device).tril(seen - asked)
        some[1:] = [x.repeat_interleave(q.shape[1] // k.shape[1], 0) for x in some[1:]]
        found = torch.nn.functional.scaled_dot_product_attention(*some, attn_mask=mask, scale=softmax_scale)
        pieces.append(found.transpose(0, 1))
    return torch.cat(pieces)


def check_kernel(kernel: Callable[..., torch.Tensor], device: str) -> dict[str, float]:
    """Largest differences between the kernel and the dense computation, on a tree as TRL builds it.

    Raises:
        RuntimeError: they are not the same.
    """
    from trl.experimental.async_grpo.packing import TreeRow

    torch.manual_seed(0)
    tree = TreeRow()
    for group in range(3):
        prompt = torch.randint(100, (70 + 30 * group,))
        for length in (40, 130, 1, 65):
            ids = torch.cat([prompt, torch.randint(100, (length,))])
            mask = torch.cat([torch.zeros_like(prompt), torch.ones(length, dtype=torch.long)])
            tree.add(
                {"input_ids": ids, "completion_mask": mask, "old_log_probs": mask.float(), "advantage": 0.0,
                 "group_id": group}
            )  # fmt: skip
    packed = tree.pack()
    index, starts_q, starts_k = (
        packed[f"tree_{name}"].to(device) for name in ("kv_index", "cu_seqlens_q", "cu_seqlens_k")
    )
    longest = packed["tree_max_seqlens"].tolist()
    count = len(packed["input_ids"])
    given = [torch.randn(count, heads, 64, device=device).bfloat16() for heads in (9, 3, 3)]
    upstream = torch.randn(count, 9, 64, device=device).bfloat16()
    results = []
    for function, dtype in ((kernel, torch.bfloat16), (densely, torch.float32)):
        q, k, v = (x.detach().to(dtype, copy=True).requires_grad_() for x in given)
        out = function(q, k[index], v[index], starts_q, starts_k, *longest, softmax_scale=0.125)
        out.backward(upstream.to(dtype))
        results.append([out.detach(), q.grad, k.grad, v.grad])
    gaps = [float((a.float() - b).abs().max()) for a, b in zip(*results, strict=True)]
    worst = [gap / float(b.abs().max()) for gap, b in zip(gaps, results[1], strict=True)]
    if max(worst) > 0.05:
        raise RuntimeError(f"the kernel under TRL's tree is off by {gaps}, of their largest {worst}")
    return {"out": gaps[0], "gradients": max(gaps[1:])}


class NoWeights:
    """For `dry`: pauses and resumes the server as TRL does, and sends nothing."""

    def __init__(self, server: str) -> None:
        from trl.experimental.async_grpo.vllm_client import VLLMClient

        self._client = VLLMClient(server)

    def init_weight_transfer(self) -> None:
        self._client.wait_for_server_ready()

    def pause(self) -> None:
        self._client.pause()

    def send_weights(self, iterator: Iterator[Any]) -> None:
        for _ in iterator:
            pass

    def resume(self) -> None:
        self._client.resume()

    def destroy(self) -> None:
        pass


def asked_in_order(config: RLConfig, model_folder: Path, tokenizer: Any) -> Dataset:
    """Our prompts in our order as conversations of one message; their tokens are the same."""
    prompts = Prompts.of(PROBLEMS, config, tokenizer)
    texts = [prompts.texts[i] for step in prompts.order for i in step]
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in texts]
    theirs = [tokenizer.apply_chat_template(row["prompt"], return_dict=False) for row in rows[:8]]
    if theirs != Codec(tokenizer).tokens(texts[:8]):
        raise ValueError("the chat template changes the prompts' tokens")
    return Dataset.from_list(rows)


def change_trl(on_gpu: bool) -> dict[int, float]:
    """Changes TRL's modules as said above. Returns each group's deviation of rewards, filled in training."""
    from trl.experimental.async_grpo import async_grpo_trainer, packing

    kernels = SimpleNamespace(flash_attn_varlen_func=with_kernel if on_gpu else densely)
    packing._flash_attn = lambda: kernels
    if not on_gpu:  # TRL asks the GPU for its name, to print a utilisation
        async_grpo_trainer.get_peak_flops_per_device = lambda *_: None
    async_grpo_trainer.AsyncRolloutWorker = endless_worker()
    spreads: dict[int, float] = {}
    log_metrics = async_grpo_trainer.DataCollatorForRollout._log_metrics

    def noting(self: Any, rows: Any, all_examples: list[dict[str, Any]], padded: Any) -> None:
        spreads.update({each["group_id"]: each["metrics"]["reward_std"] for each in all_examples})
        log_metrics(self, rows, all_examples, padded)

    async_grpo_trainer.DataCollatorForRollout._log_metrics = noting
    return spreads


def row_of(log: dict[str, Any], learned_from: float) -> dict[str, Any]:
    """What `benchmarks.gpu_async` prints of a step, from what TRL logs of it."""
    return {
        "wait_s": log["perf/rollout_wait_s"],
        "update_s": log["perf/fwd_bwd_s"] + log["perf/optimizer_s"],
        "sync_s": log["perf/weight_sync_s"],
        "staleness": log["sample/staleness_mean"],
        "staleness_max": log["sample/staleness_max"],
        "dropped": log.get("sample/dropped_stale_total", 0.0),
        "learned_from": learned_from,
        "completions": log["batch/samples_per_step"],
        "length": log["sample/trained_tokens_mean"],
        "forwarded": log["batch/forwarded_tokens_per_step"],
        "kl": log["kl"],
    }


def trainer_of(
    variant: str, work: str, config: RLConfig, model_folder: Path, output: Path
) -> tuple[Any, Callable[[dict[str, Any]], dict[str, Any]]]:
    """TRL's trainer, and the function that makes a row to print of what it logs of a step."""
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer

    on_gpu = torch.cuda.is_available()
    found = check_kernel(with_kernel if on_gpu else densely, "cuda" if on_gpu else "cpu")
    print("CHECK " + json.dumps(found), flush=True)
    spreads, tokenizer = change_trl(on_gpu), load_tokenizer(model_folder)
    tokenizer.chat_template, tokenizer.response_schema = _PROMPT_AS_IT_IS, {}
    Server(config.engine.server_url).wait(PATIENCE)
    trainer = AsyncGRPOTrainer(
        model=str(model_folder),
        reward_funcs=digits_in_messages,
        train_dataset=asked_in_order(config, model_folder, tokenizer),
        processing_class=tokenizer,
        weight_transfer=NoWeights(config.engine.server_url) if work == "dry" else None,
        args=AsyncGRPOConfig(
            output_dir=str(output), max_steps=config.steps, per_device_train_batch_size=MICRO_BATCH[work],
            gradient_accumulation_steps=config.batch_size // MICRO_BATCH[work], token_budget=0,
            num_generations=config.group_size, max_completion_length=config.max_completion_length,
            temperature=config.temperature, learning_rate=config.learning_rate, weight_decay=0.0,
            max_grad_norm=1.0, epsilon=config.clip_epsilon, bf16=config.bf16, use_cpu=not on_gpu,
            gradient_checkpointing=variant.endswith("recompute"),
            max_staleness=4 if variant.endswith("loose") else config.mini_batches_per_rollout,
            vllm_server_base_url=config.engine.server_url, seed=config.seed, save_strategy="no",
            report_to=[], disable_tqdm=True, dataloader_pin_memory=False, logging_steps=1,
        ),
    )  # fmt: skip

    def row(log: dict[str, Any]) -> dict[str, Any]:
        learned = sum(spread > 0 for spread in spreads.values()) / max(len(spreads), 1)
        return row_of(log, learned * config.questions_per_step)

    return trainer, row
