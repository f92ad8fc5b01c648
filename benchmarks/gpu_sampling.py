"""Tokens a second of sampling and evaluation against vLLM's own `LLM.generate`, on a GPU.

    python -m benchmarks.gpu_sampling MODEL_FOLDER             cases in turn, both sides in turn
    python -m benchmarks.gpu_sampling MODEL_FOLDER --sequences 16 --samples 1 --engine transformers
                                                               our side alone on a CPU, to try it

Both sides are the same `LLM` object in the same process with the same prompts, sampling parameters and seeds,
so what differs is how the requests enter and what is done with the answers.

    rollout N     N sequences of exactly 300 tokens, 16 of them from each prompt: `Engine.generate`
    evaluation    4 samples of each of 1,110 questions after three worked examples, of their natural length,
                  at most 300 tokens: `tasks.rollout.sampling.sample_shards`, which renders and tokenises
                  the questions, decodes the answers and writes them as shards of Parquet. `LLM.generate`
                  only generates; it is given token ids and does not turn the answers into text.

The prefix cache is emptied before each run. The first round warms up; told is the better of two others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifacts.refs import Ref
from benchmarks.rl_step import PROBLEMS
from tasks.job import Input, Job
from tasks.kinds import Kind
from tasks.rollout.engine import SampledModel
from tasks.rollout.engines import open_engine
from tasks.rollout.sampling import requests_for, sample_shards
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.text import TextSampler
from tasks.tokenizer import Codec

QUESTIONS, LENGTH, GROUP, ROUNDS = 1_110, 300, 16, 3
TEMPLATE = "r1-few-shot"
ROLLOUT = Sampling(max_new_tokens=LENGTH)
EVALUATION = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=LENGTH)


def asked_questions(count: int) -> list[Any]:
    """As many questions as wanted: those of `benchmarks.rl_step` with other numbers of their own."""
    known = len(PROBLEMS)
    return [
        replace(PROBLEMS[i % known], id=str(i), prompt=f"{PROBLEMS[i % known].prompt} ({i})")
        for i in range(count)
    ]


def rate(sample: Callable[[], int]) -> float:
    started = time.perf_counter()
    tokens = sample()
    return tokens / (time.perf_counter() - started)


def rollout(engine: Any, endless: frozenset[int], codec: Codec, sequences: int) -> tuple[Any, Any]:
    """What our engine and vLLM are asked, as two functions that return the tokens that were written."""
    prompts = codec.tokens(
        [codec.prompt(TEMPLATE, p.prompt) for p in asked_questions(max(1, sequences // GROUP))]
    )
    seeds = [[GROUP * i + j for j in range(GROUP)] for i in range(len(prompts))]
    rows = [(prompts[i], seed) for i, group in enumerate(seeds) for seed in group]

    def ours() -> int:
        engine._end_tokens = endless
        return sum(len(c.tokens) for c in engine.generate(prompts, ROLLOUT, seeds))

    return ours, lambda: theirs(engine, rows, ROLLOUT, endless)


def evaluation(
    engine: Any, ends: frozenset[int], codec: Codec, questions: int, samples: int, in_flight: int
) -> tuple[Any, Any]:
    problems = asked_questions(questions)
    requests = requests_for(codec.prompt, problems, TEMPLATE, samples, 0)
    rows = list(zip(codec.tokens([r.prompt for r in requests]), [r.seed for r in requests], strict=True))

    def ours() -> int:
        engine._end_tokens = ends
        with tempfile.TemporaryDirectory() as scratch:
            model = Input(Ref(kind=Kind.checkpoint, digest="0" * 64), Path(scratch))
            job = Job("evaluation", "evaluate", {"checkpoint": model}, Path(scratch) / "work")
            job.state.mkdir(parents=True)
            sampled = sample_shards(
                TextSampler(engine, codec, in_flight), problems, TEMPLATE, EVALUATION, samples, 0,
                model.ref.digest, job, job.state / "shards",
            )  # fmt: skip
            return sum(sum(part["completion_tokens"].to_pylist()) for part in sampled.chunks())

    return ours, lambda: theirs(engine, rows, EVALUATION, ends)


def theirs(engine: Any, rows: list[tuple[Any, int]], sampling: Sampling, ends: frozenset[int]) -> int:
    """`LLM.generate` with the parameters that our engine passes."""
    engine._end_tokens = ends
    prompts = [{"prompt_token_ids": list(prompt)} for prompt, _ in rows]
    parameters = [engine._params(sampling, seed, False) for _, seed in rows]
    done = engine._llm.generate(prompts, parameters, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sequences", type=int, nargs="+", default=[256, 512, 2_048])
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    given = parser.parse_args()
    settings = EngineSettings(name=given.engine, gpu_memory_share=0.3)
    codec = Codec.of(given.model)
    begun = time.perf_counter()
    engine: Any = open_engine(settings, SampledModel(given.model, codec.end_tokens))
    print(f"{engine.name}, opened in {time.perf_counter() - begun:.1f} s", flush=True)
    compares = given.engine == "vllm"
    cases = {f"rollout {n}": rollout(engine, frozenset(), codec, n) for n in given.sequences}
    cases["evaluation"] = evaluation(
        engine, codec.end_tokens, codec, given.questions, given.samples, settings.entry.in_flight
    )
    for name, (ours, vllm) in cases.items():
        found: dict[str, list[float]] = {"ours": [], "vllm": []}
        for _ in range(ROUNDS):
            for side, sample in (("ours", ours), ("vllm", vllm))[: 2 if compares else 1]:
                if compares:
                    engine._llm.reset_prefix_cache()
                found[side].append(rate(sample))
        counted = {side: round(max(rates[1:])) for side, rates in found.items() if rates}
        share = {"share": round(counted["ours"] / counted["vllm"], 3)} if compares else {}
        print("RESULT " + json.dumps({"case": name, **counted, **share}), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
