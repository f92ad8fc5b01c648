"""Pre-trains the tiny world's base models from scratch: the recipe of the weights shipped in `weights/`.

    python -m tasks.tiny_world.pretrain tiny-base        # 2.4M parameters, the messy web
    python -m tasks.tiny_world.pretrain tiny-student     # 0.6M parameters, the poor web

On one H200 each takes minutes; on a CPU use `--steps` to try it out. Each writes a Hugging Face
folder (float16 safetensors, tokenizer) and `recipe.json` with every number that made it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.tiny_world.documents import MESSY_WEB, POOR_WEB, Mixture, documents
from tasks.tiny_world.tokenizer import save_tokenizer

WEIGHTS = Path(__file__).parent / "weights"
_MAX_TOKENS = 144


@dataclass(frozen=True)
class PretrainRecipe:
    """Everything that decides a base model."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    mixture: Mixture
    documents: int
    shards: int
    """Parts of the corpus, each a stream of documents with a seed of its own."""
    steps: int
    batch_size: int = 2048
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    seed: int = 1


RECIPES = {
    "tiny-base": PretrainRecipe(224, 576, 4, 7, MESSY_WEB, documents=2_600_000, shards=9, steps=1_800),
    "tiny-student": PretrainRecipe(
        128, 320, 3, 4, POOR_WEB, documents=1_200_000, shards=4, steps=1_200, seed=2
    ),
}


def new_model(recipe: PretrainRecipe, tokenizer: Any) -> Any:
    """A freshly initialised model of the recipe's size: Llama with attention biases, tied embeddings.

    Not a Qwen2 folder: transformers' AutoTokenizer gives those Qwen's own tokenizer, whatever theirs is.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size, num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads,
            max_position_embeddings=512, rope_theta=10_000.0,
            attention_bias=True, tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )
    )  # fmt: skip


def _encode(job: tuple[str, Mixture, int, int]) -> np.ndarray:
    """`count` documents as uint16 ids, EOS at the end, padded to `_MAX_TOKENS`; longer ones are dropped."""
    from transformers import AutoTokenizer

    folder, mixture, seed, count = job
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = list(itertools.islice(documents(mixture, seed), count))
    rows = [ids for ids in tokenizer(texts)["input_ids"] if len(ids) < _MAX_TOKENS]
    out = np.full((len(rows), _MAX_TOKENS), tokenizer.pad_token_id, dtype=np.uint16)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids) + 1] = [*ids, tokenizer.eos_token_id]
    return out


def corpus(recipe: PretrainRecipe, folder: Path, workers: int) -> np.ndarray:
    """(documents, `_MAX_TOKENS`) uint16, written by `workers` processes."""
    share = recipe.documents // recipe.shards
    jobs = [(str(folder), recipe.mixture, recipe.seed * 1000 + i, share) for i in range(recipe.shards)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return np.concatenate(pool.map(_encode, jobs))


def train(recipe: PretrainRecipe, ids: np.ndarray, tokenizer: Any, device: str) -> tuple[Any, float]:
    """The trained model and its last loss (nats a token)."""
    import torch

    torch.manual_seed(recipe.seed)
    model = new_model(recipe, tokenizer).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, recipe.warmup_steps)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps - recipe.warmup_steps, 2e-5)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [recipe.warmup_steps])
    data = torch.from_numpy(ids.astype(np.int32)).to(device)
    order = torch.Generator(device=device).manual_seed(recipe.seed)
    run = torch.compile(model) if device == "cuda" else model
    for step in range(1, recipe.steps + 1):
        batch = data[torch.randint(len(data), (recipe.batch_size,), generator=order, device=device)].long()
        labels = batch.masked_fill(batch == tokenizer.pad_token_id, -100)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = run(input_ids=batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 250 == 0 or step == recipe.steps:
            print(f"step {step}/{recipe.steps}  loss {loss.item():.4f}", flush=True)
    return model, loss.item()


def main() -> None:
    """Trains one base and writes it to `weights/NAME` (or `--out`)."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, help="fewer steps, to try it out")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    changes = {k: v for k in ("steps", "documents") if (v := getattr(args, k))}
    recipe, folder = replace(RECIPES[args.name], **changes), args.out or WEIGHTS / args.name
    started = time.time()
    tokenizer = save_tokenizer(folder)
    ids = corpus(recipe, folder, args.workers)
    print(f"{len(ids):,} documents, {int((ids != tokenizer.pad_token_id).sum()):,} tokens", flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, loss = train(recipe, ids, tokenizer, device)
    model.to("cpu", torch.float16).save_pretrained(str(folder))
    facts = asdict(recipe) | {
        "parameters": model.num_parameters(), "vocabulary": len(tokenizer), "last_loss": round(loss, 4),
        "corpus_tokens": int((ids != tokenizer.pad_token_id).sum()), "seconds": round(time.time() - started),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "torch": torch.__version__,
        "command": f"python -m tasks.tiny_world.pretrain {args.name}",
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
