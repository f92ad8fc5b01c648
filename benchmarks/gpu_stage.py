"""R1-Zero of a preset on a GPU, its own problems and rewards, with one thing of ours undone at a time.

    python -m flows.local smollm2-135m --until base          the model, into the store
    python -m flows.local smollm2-135m --until problems
    python -m benchmarks.gpu_stage [--steps 12] [--only as-it-is padded-rows]
    python -m benchmarks.gpu_stage --preset tiny --steps 4                       the same code on a CPU

    no-shared-prompt   a group's prompt stands before each of its completions
    padded-rows        64 completions in a pass, filled up to the longest of them; the prompt is shared
    late-rewards       no completion is checked before the last one is written

Unlike in `benchmarks.gpu_step` completions end where the model ends them, so that padding and the time of the
rewards show. The learning rate is nearly 0: all steps and variants sample from the same policy. Each variant
runs in a process of its own; seconds are medians over the steps after the second. `reward_s` is the time
between the last completion and the rewards, `forwarded` the tokens that an update forwards.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from artifacts.store import ArtifactStore
from artifacts.tables import read_table
from benchmarks.gpu_step import counted
from benchmarks.rl_step import UNDO
from tasks.job import Input, Job
from tasks.presets import load_preset
from tasks.rl import packing
from tasks.rl import train as rl
from tasks.rl.packing import Pack, Rows
from tasks.rl.recorder import RecordedReward

_WARM_UP = 2
_ROWS = 64
"""Completions in a pass of `padded-rows`: the best of those tried for TRL in `benchmarks.gpu_step`."""
_SHOWN = ("generate_s", "reward_s", "score_s", "update_s", "completion_length", "completion_length_max")


def _in_rows(rows: Rows, chosen: Sequence[int], budget: int, at_least: int = 1) -> list[list[int]]:
    """What `packing.plan` returns, by a count of rows."""
    ordered = sorted(chosen, key=lambda i: (rows.groups[i], i))
    return [ordered[at : at + _ROWS] for at in range(0, len(ordered), _ROWS)]


def _filled(pack: Callable[[Rows, Sequence[int]], Pack]) -> Callable[[Rows, Sequence[int]], Pack]:
    """`packing.pack` with completions filled up to the longest; what fills them has no label."""

    def filled(rows: Rows, chosen: Sequence[int]) -> Pack:
        lengths = {i: len(rows.completions[i]) for i in chosen}
        longest = max(lengths.values())
        longer = list(rows.completions)
        for i, length in lengths.items():
            longer[i] = np.pad(longer[i], (0, longest - length))
        packed = pack(replace(rows, completions=longer), chosen)
        real = np.concatenate([np.arange(longest) < lengths[i] for i in chosen])
        packed.labels[packed.labelled[~real]] = packing._NO_LABEL
        return replace(packed, labelled=packed.labelled[real])

    return filled


UNDONE: dict[str, Callable[[], Any]] = {
    "as-it-is": nullcontext,
    "no-shared-prompt": UNDO["a prompt forwarded for every row"],
    "padded-rows": lambda: mock.patch.multiple(packing, plan=_in_rows, pack=_filled(packing.pack)),
    "late-rewards": lambda: mock.patch.object(RecordedReward, "early", return_value=None),
}
"""Variant -> a context in which one thing of ours is not there."""


def measured(variant: str, preset: str, steps: int) -> dict[str, float]:
    """Medians of one variant's steps."""
    own = {"steps": steps + _WARM_UP, "learning_rate": 1e-12, "checkpoint_every": 10_000, "evaluate_every": 0}
    config = load_preset(preset).r1_zero.model_copy(update=own | {"curriculum": None, "keep_state": False})
    store, forwarded = ArtifactStore.open(), list[int]()
    found = {name: store.resolve(f"{preset}/{node}") for name, node in _INPUTS.items()}
    inputs = {name: Input(ref, store.fetch(ref)) for name, ref in found.items()}
    with tempfile.TemporaryDirectory() as scratch, UNDONE[variant](), counted(forwarded):
        job = Job("r1-zero", "rl", inputs, Path(scratch) / "key")
        for folder in (job.state, job.draft):
            folder.mkdir(parents=True)
        rl.run(config, job)
        rows = read_table(job.draft / "metrics.parquet").to_pylist()
    late = [row for row in rows if row["step"] >= min(r["step"] for r in rows) + _WARM_UP]
    medians = {
        name: statistics.median(row["value"] for row in late if row["name"] == name) for name in _SHOWN
    }
    return medians | {"forwarded": sum(forwarded) / config.steps}


_INPUTS = {"checkpoint": "base", "problems": "problems"}
"""Input of the stage -> node of the preset's recipe."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="smollm2-135m")
    parser.add_argument("--only", nargs="+", choices=sorted(UNDONE), default=[*UNDONE, "as-it-is"])
    parser.add_argument("--steps", type=int, default=12, help="counted ones; two more are made")
    parser.add_argument("--here", action="store_true", help="in this process")
    given = parser.parse_args()
    if given.here:
        found = measured(given.only[0], given.preset, given.steps)
        print("RESULT " + json.dumps({name: round(value, 3) for name, value in found.items()}), flush=True)
        return
    for variant in given.only:
        command = [
            sys.executable, "-m", "benchmarks.gpu_stage", "--here", "--preset", given.preset,
            "--steps", str(given.steps), "--only", variant,
        ]  # fmt: skip
        shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        lines = [line for line in shown.splitlines() if line.startswith("RESULT ")]
        print(variant, *(lines or [shown[-3_000:]]), flush=True)


if __name__ == "__main__":
    main()
