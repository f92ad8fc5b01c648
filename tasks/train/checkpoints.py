"""Trainer checkpoints that survive a kill: one counts only once its marker, written last, is there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_MARKER = "complete.json"


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


def checkpoint_step(checkpoint: Path) -> int:
    """N of `checkpoint-N`."""
    return int(checkpoint.name.rpartition("-")[2])


class SealCheckpoints(TrainerCallback):
    """Seals what the Trainer saved; the Trainer keeps two, so a kill in between leaves the one before."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
