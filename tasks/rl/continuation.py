"""A finished RL run goes on with more steps as if it had never ended.

The published artifact holds the final weights only; from them a longer run would start with an empty
optimiser and a reference of its own, and be another run than one that was long from the start. So the
trainer's state of a finished run (weights, two Adam moments, the reference once it moved, random states, and
the completions so far) stays in the work folder, outside the store:

    $R1_WORK/finished/<digest of everything that decides the run but `steps`>/

A run with the same settings and more `steps` copies it and resumes there. Its key is that of the longer run,
and so are its bytes: nothing but time depends on the copy being there. About 16 bytes a parameter (12 without
a reference that moved), hard-linked from what training wrote anyway; the folder may be deleted at any time,
and `keep_state: false` keeps none.

What depends on the number of steps itself (`general_last_steps`, a term's `last_steps`) begins later in the
longer run. Only a checkpoint from before that is a place to go on from; where there is none, the run starts
anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

from artifacts.keys import canonical_json
from tasks.job import Job
from tasks.rl.schedule import late_phases
from tasks.rl.stage import RLConfig
from tasks.supervise.records import read_json, write_json
from tasks.training.checkpoints import checkpoint_step, fits, is_sealed, newest_checkpoint

log = logging.getLogger(__name__)

_RECORD = "run.json"


def state_folder(config: RLConfig, stage: str, inputs: dict[str, str], work_root: Path) -> Path:
    """Where the state of such a run lies, whatever its number of steps; `inputs` are digests by name."""
    settings = {k: v for k, v in config.cache_document().items() if k != "steps"}
    document = {"stage": stage, "config": settings, "inputs": inputs}
    return work_root / "finished" / hashlib.sha256(canonical_json(document)).hexdigest()


def same_until(config: RLConfig) -> int:
    """The first step that would be another one if the run had more steps."""
    # The last checkpoint lacks the rollout that a longer run had begun by then.
    own = config.steps - 1 if config.rollout_ahead else config.steps
    return min(own, *late_phases(config))


def adopt(config: RLConfig, job: Job) -> None:
    """Put the state of a shorter finished run into `job.state`, where the job has no checkpoint yet."""
    if newest_checkpoint(job.state / "trainer") is not None:
        return
    source = _folder(config, job)
    record = read_json(source / _RECORD)
    if record is None:
        return
    limit = min(int(record["same_until"]), same_until(config), config.steps)
    usable = [c for c in _usable(source / "trainer", config, limit) if fits(c, config.launch)]
    if not usable:
        log.info(
            "%s starts anew: the state of %d steps lies past step %d, or was written with another "
            "launch.strategy", job.node, record["steps"], limit,
        )  # fmt: skip
        return
    shutil.rmtree(job.state, ignore_errors=True)
    shutil.copytree(source, job.state, copy_function=_link)
    (job.state / _RECORD).unlink()
    for checkpoint in (job.state / "trainer").glob("checkpoint-*"):
        if checkpoint_step(checkpoint) > checkpoint_step(usable[-1]):
            shutil.rmtree(checkpoint)
    step = checkpoint_step(usable[-1])
    log.info("%s goes on from step %d of a finished run of %d steps", job.node, step, record["steps"])
    job.summary(continued_from_step=step, continued_from_key=str(record["key"])[:12])


def keep(config: RLConfig, job: Job) -> None:
    """Leave what a longer run could go on from; replaces that of a shorter one."""
    target = _folder(config, job)
    before = read_json(target / _RECORD)
    usable = _usable(job.state / "trainer", config, same_until(config))
    if not config.keep_state or not usable or (before and before["steps"] >= config.steps):
        return
    unfinished = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(job.state, unfinished, copy_function=_link)
    if config.publish == "last":
        for checkpoint in (unfinished / "trainer").glob("checkpoint-*"):
            if checkpoint.name != usable[-1].name:
                shutil.rmtree(checkpoint)
    record = {
        "node": job.node,
        "steps": config.steps,
        "same_until": same_until(config),
        "key": job.folder.name,
    }
    write_json(unfinished / _RECORD, record)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)


def _folder(config: RLConfig, job: Job) -> Path:
    inputs = {name: given.ref.digest for name, given in job.inputs.items()}
    return state_folder(config, job.stage, inputs, job.work_root)


def _usable(folder: Path, config: RLConfig, limit: int) -> list[Path]:
    """Whole checkpoints up to step `limit`, none of them in the middle of a rollout; oldest first."""
    found = [c for c in folder.glob("checkpoint-*") if is_sealed(c)]
    found = [c for c in found if checkpoint_step(c) % config.mini_batches_per_rollout == 0]
    return sorted((c for c in found if checkpoint_step(c) <= limit), key=checkpoint_step)


def _link(source: str, target: str) -> str:
    """A hard link: nothing is written into a checkpoint once it is sealed. A copy across file systems."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
