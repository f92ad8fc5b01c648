"""Trainer checkpoints that survive a kill: one counts only once its marker, written last, is there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.training.settings import LaunchSettings

_MARKER = "complete.json"
_ROOM = 1.05
"""Free space for a checkpoint, in sizes of the one before."""


def seal(checkpoint: Path) -> None:
    """Flush every file of the checkpoint to disk, then write the marker that names them with their sizes."""
    sizes = {}
    for file in sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != _MARKER):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        sizes[str(file.relative_to(checkpoint))] = file.stat().st_size
    temporary = checkpoint / f".{_MARKER}"
    temporary.write_text(json.dumps(sizes))
    temporary.replace(checkpoint / _MARKER)


def is_sealed(checkpoint: Path) -> bool:
    """Whether every file the marker names is there at its full size."""
    marker = checkpoint / _MARKER
    if not marker.is_file():
        return False
    sizes = json.loads(marker.read_text())
    return all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == n for name, n in sizes.items()
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The sealed `checkpoint-N` of the largest N; torn ones are deleted. None where there is none."""
    found = sorted(folder.glob("checkpoint-*"), key=checkpoint_step)
    for torn in (c for c in found if not is_sealed(c)):
        shutil.rmtree(torn)
    sealed = [c for c in found if c.is_dir()]
    return sealed[-1] if sealed else None


def resume_point(folder: Path, launch: LaunchSettings) -> Path | None:
    """The newest checkpoint, which a run with this launch can go on from; None where there is none.

    Raises:
        ValueError: its weights are whole and the run shares them out, or the other way round.
    """
    newest = newest_checkpoint(folder)
    if newest is not None and not fits(newest, launch):
        written = "fsdp2" if _is_shared_out(newest) else "ddp"
        raise ValueError(
            f"{newest} was written with {written} and launch.strategy is {launch.strategy}: set it back, or "
            f"remove {folder} to start anew"
        )
    return newest


def fits(checkpoint: Path, launch: LaunchSettings) -> bool:
    """Whether a run with this launch can read the checkpoint."""
    return _is_shared_out(checkpoint) == (launch.strategy == "fsdp2")


def _is_shared_out(checkpoint: Path) -> bool:
    """Whether each process wrote its part of the weights (FSDP2)."""
    return (checkpoint / "pytorch_model_fsdp_0").is_dir()


def make_room(folder: Path) -> list[Path]:
    """Delete the oldest checkpoints where the disk has no room for one more as large as the newest.

    A kill while the next one is written then costs the steps since the start, or since the one that is left.
    Returns the deleted ones.
    """
    sealed = sorted((c for c in folder.glob("checkpoint-*") if is_sealed(c)), key=checkpoint_step)
    if not sealed:
        return []
    size = sum(f.stat().st_size for f in sealed[-1].rglob("*") if f.is_file())
    deleted = []
    while sealed and shutil.disk_usage(folder).free < _ROOM * size:
        deleted.append(sealed.pop(0))
        shutil.rmtree(deleted[-1])
    return deleted


def checkpoint_step(checkpoint: Path) -> int:
    """N of `checkpoint-N`."""
    return int(checkpoint.name.rpartition("-")[2])


class SealCheckpoints(TrainerCallback):
    """Seals what the Trainer saved; it keeps at least two, so a kill in between leaves the one before.

    The best checkpoint (`best_checkpoint`) is never rotated away where `best_since` is given: of the number
    of updates made, after how many of them rewards can be compared.
    """

    def __init__(self, best_since: Callable[[int], int] | None = None) -> None:
        self._best_since = best_since

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        folder = Path(args.output_dir)
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(folder / f"checkpoint-{state.global_step}")
        if self._best_since is not None:
            best = best_checkpoint(folder, state.log_history, self._best_since(state.global_step))
            state.best_model_checkpoint = str(best) if best else None


def best_checkpoint(folder: Path, log_history: Sequence[Mapping[str, Any]], since: int = 0) -> Path | None:
    """The sealed checkpoint of the highest mean reward over the ten steps before it; the later of equals.

    Only updates after the first `since` count: before, other questions were asked or other terms rewarded.
    """
    log = [entry for entry in log_history if entry.get("step", 0) > since]
    rated = [
        (score, checkpoint_step(c), c)
        for c in folder.glob("checkpoint-*")
        if is_sealed(c) and (score := _reward_before(checkpoint_step(c), log)) is not None
    ]
    return max(rated)[2] if rated else None


def _reward_before(step: int, log_history: Sequence[Mapping[str, Any]], last: int = 10) -> float | None:
    rewards = [e["reward"] for e in log_history if e.get("reward") is not None and e["step"] <= step][-last:]
    return sum(rewards) / len(rewards) if rewards else None
