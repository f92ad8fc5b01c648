"""What the RL stages of a preset will cost: tokens, steps, memory and hours, from three steps of each.

The steps run in a process of their own (`tasks.estimate`); here nothing heavy is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from artifacts.store import ArtifactStore
from flows.graph import Pipeline, key_of
from flows.runner import JOB_ENVIRONMENT
from tasks.base.stage import BaseConfig
from tasks.presets import PresetError
from tasks.rl.stage import RLConfig
from tasks.settings import REPOSITORY

Row = dict[str, Any]
COLUMNS = ("stage", "parameters", "steps", "tokens", "s/step", "hours", "at most", "memory")


def estimate(pipeline: Pipeline, store: ArtifactStore) -> list[Row]:
    """One `tasks.estimate.Estimate` a stage, as it is written there.

    Raises:
        PresetError: the base or the problems cannot be had, or a setting does not fit them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        spec, result = Path(scratch) / "spec.json", Path(scratch) / "result.json"
        spec.write_text(json.dumps(_spec(pipeline, store)))
        log = Path(scratch) / "log.txt"
        with log.open("wb") as errors:
            command = [sys.executable, "-m", "tasks.estimate", str(spec), str(result)]
            environment = os.environ | JOB_ENVIRONMENT
            subprocess.run(command, cwd=REPOSITORY, stderr=errors, env=environment, check=False)
        if not result.exists():
            last = (log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"])[-1]
            raise PresetError(f"the probe of {pipeline.name} died: {last}")
        found = json.loads(result.read_text())
    if "reason" in found:
        raise PresetError(f"cannot estimate {pipeline.name}: {found['reason']}")
    rows: list[Row] = found["estimates"]
    return rows


def cells(row: Row) -> list[str]:
    """An estimate as a line of `COLUMNS`."""
    return [
        row["node"], f"{row['parameters'] / 1e6:,.1f} M", f"{row['steps']:,}", f"{row['tokens']:,.0f}",
        f"{row['seconds_per_step']:.2f}", _hours(row["hours"]), _hours(row["hours_at_most"]),
        f"{row['memory_gib']:.1f} GiB",
    ]  # fmt: skip


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def _spec(pipeline: Pipeline, store: ArtifactStore) -> dict[str, Any]:
    return {
        "problems": pipeline.node("problems").config.model_dump(mode="json"),
        "problems_folder": _built(pipeline, store, "problems"),
        "stages": list(_stages(pipeline, store)),
    }


def _stages(pipeline: Pipeline, store: ArtifactStore) -> Iterator[dict[str, Any]]:
    student = f"{pipeline.student}-base"
    for name, node in pipeline.nodes.items():
        if isinstance(node.config, RLConfig):
            base = student if name.endswith("-rl-only") else "base"
            settings = pipeline.node(base).config
            assert isinstance(settings, BaseConfig)
            yield {
                "node": name,
                "config": node.config.model_dump(mode="json"),
                "base": settings.model_dump(mode="json"),
                "base_folder": _built(pipeline, store, base),
            }


def _built(pipeline: Pipeline, store: ArtifactStore, node: str) -> str:
    """The folder of a node's artifact; empty where it is not built, or not with these settings."""
    ref = store.lookup(key_of(pipeline.node(node), {}))
    return str(store.fetch(ref)) if ref else ""
