"""The start of a process that samples with vLLM, in turn with and without `gc.freeze()` before it is built.

    python -m benchmarks.gpu_start SMOLLM2_FOLDER [--rounds 2]
    VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m benchmarks.gpu_start TINY_FOLDER     on a CPU

Each start is a process of its own; one before them, which is not shown, reads the files. `imports_s` is from
the start of the process until what a trainer imports is there, `open_s` is `open_engine`, `first_token_s` all
of it, to the first token of one completion.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil

WAYS = ("frozen", "not-frozen")


def started(way: str, folder: Path) -> dict[str, float]:
    import torch
    import trl  # noqa: F401  (a trainer has it)
    import vllm  # noqa: F401

    from tasks.rollout.engine import SampledModel
    from tasks.rollout.engines import open_engine
    from tasks.rollout.engines import vllm as engine_module
    from tasks.rollout.settings import EngineSettings, Sampling
    from tasks.tokenizer import Codec

    if way == "not-frozen":
        engine_module.gc = SimpleNamespace(collect=gc.collect, freeze=lambda: None)
    codec = Codec.of(folder)
    torch.zeros(1, device="cuda" if torch.cuda.is_available() else "cpu")
    born, begun = psutil.Process().create_time(), time.time()
    engine = open_engine(
        EngineSettings(name="vllm", gpu_memory_share=0.3), SampledModel(folder, codec.end_tokens)
    )
    opened = time.time()
    list(engine.generate(codec.tokens(["What is 1 + 2?"]), Sampling(max_new_tokens=1), [[0]]))
    return {"imports_s": begun - born, "open_s": opened - begun, "first_token_s": time.time() - born}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--here", choices=WAYS, help="in this process")
    given = parser.parse_args()
    if given.here:
        found = {name: round(seconds, 2) for name, seconds in started(given.here, given.model).items()}
        print("RESULT " + json.dumps(found), flush=True)
        return
    for number, way in enumerate([WAYS[0], *WAYS * given.rounds]):
        command = [sys.executable, "-m", "benchmarks.gpu_start", str(given.model), "--here", way]
        shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        results = [line for line in shown.splitlines() if line.startswith("RESULT ")]
        if number or not results:
            print(way, *(results or [shown[-3_000:]]), flush=True)


if __name__ == "__main__":
    main()
