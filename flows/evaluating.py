"""Evaluates any checkpoint on named benchmarks by the jobs of the pipeline's stages, without graph or server.

    r1 eval tiny/r1 --on aime24            an artifact of the store
    r1 eval out/my-model --on math500      a model folder; a hub name (owner/name) likewise

The benchmarks become an artifact of problems, a folder or hub model one of stage `base`, and both the inputs
of stage `evaluate`. All three are kept in the store under their keys, so asking again runs nothing. Their
names begin with `eval/`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from artifacts.errors import StoreError
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import paths
from flows.graph import build_spec
from flows.local_builder import ProgressLines
from flows.runner import JobFailed, run_job
from tasks.base.folder import UnusableBase, check_folder, has_chat_template
from tasks.base.stage import BASE, SMOLLM2, BaseConfig
from tasks.evaluate.stage import EVALUATE, EvaluateConfig
from tasks.job.spec import JobSpec
from tasks.kinds import Kind
from tasks.model_card import trained_template
from tasks.presets import PresetError, complaint
from tasks.problems.stage import PROBLEMS, ProblemsConfig
from tasks.recipe import Node
from tasks.rendering import CHAT
from tasks.settings import Settings
from tasks.stage import Stage

SCOPE = "eval"
"""What the names of its artifacts begin with, in the place of a preset's name."""


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """What an evaluation left in the store."""

    name: str
    evaluation: Ref
    problems: Ref


def evaluated(
    store: ArtifactStore, checkpoint: str, settings: Mapping[str, Any], say: Callable[[str], None]
) -> EvaluatedCheckpoint:
    """Evaluate a checkpoint with these settings of stage `evaluate`, or find that it was done.

    `say` is told how far a job is.

    Without a `template` the one of its training is taken, else the model's own chat template, else `r1`.

    Raises:
        PresetError: settings that cannot be, or no such checkpoint; one sentence.
        JobFailed: a job failed.
    """
    config = _checked(EvaluateConfig, settings, "r1 eval")
    if not config.benchmarks:
        raise PresetError("r1 eval needs a benchmark: name one by --on")
    sources = [benchmark.source(name) for name, benchmark in config.benchmarks.items()]
    asked = _checked(ProblemsConfig, {"sources": sources}, "r1 eval")
    _check_files(asked)
    label = re.sub(r"[^A-Za-z0-9_+-]+", "-", checkpoint).strip("-") or "model"
    model = _checkpoint(store, say, checkpoint, label)
    problems = _made(store, say, "problems", PROBLEMS, asked, {})
    if "template" not in settings:
        config = config.model_copy(update={"template": _template(store, model)})
    node = f"evaluation.{label}"
    made = _made(store, say, node, EVALUATE, config, {"checkpoint": model, "problems": problems})
    return EvaluatedCheckpoint(f"{SCOPE}/{node}", made, problems)


def _checked(model: type[BaseModel], settings: Mapping[str, Any], source: str) -> Any:
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise PresetError("; ".join(complaint(source, model, e) for e in error.errors()[:3])) from None


def _check_files(config: ProblemsConfig) -> None:
    for source in config.sources:
        try:
            source.check()
        except ValueError as error:
            raise PresetError(f"--on: {error}") from None


def _checkpoint(store: ArtifactStore, say: Callable[[str], None], text: str, label: str) -> Ref:
    """The checkpoint that a user calls so: of the store, in a folder, or on the hub."""
    try:
        ref = store.resolve(text)
    except StoreError as error:
        return _made(store, say, f"model.{label}", BASE, _model(text, str(error)), {})
    if ref.kind != Kind.checkpoint:
        raise PresetError(f"{text} is a {ref.kind}: name a checkpoint")
    return ref


def _model(text: str, not_in_store: str) -> BaseConfig:
    """The settings that read a model from its folder, or from the hub."""
    folder = Path(text).expanduser()
    if not folder.is_dir():
        base = BaseConfig(model=text)
        if base.on_hub or text == SMOLLM2:
            return base
        raise PresetError(f"{text!r} is no artifact, model folder or hub name (owner/name): {not_in_store}")
    model = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    try:
        check_folder(model)
    except UnusableBase as error:
        raise PresetError(f"{text}: {error}") from None
    return BaseConfig(model=str(model.resolve()))


def _template(store: ArtifactStore, model: Ref) -> str:
    if trained := trained_template(store, store.manifest(model.digest)):
        return trained
    return CHAT if has_chat_template(store.fetch(model) / "model") else "r1"


def _made(
    store: ArtifactStore,
    say: Callable[[str], None],
    node: str,
    stage: Stage,
    config: Settings,
    inputs: Mapping[str, Ref],
) -> Ref:
    """The artifact of a stage with these settings and inputs, by a job of its own unless it is there."""
    build = build_spec(Node(node, stage, config), inputs, f"{SCOPE}/{node}")
    if store.find(build.key) is None:
        run_job(JobSpec(work_root=paths.work_root(), preset=SCOPE, builds=(build,)), ProgressLines(say))
    ref = store.lookup(build.key)
    if ref is None:
        raise JobFailed(f"{node}: its job ended well, and the store has no artifact of its key")
    store.set_ref(build.ref_name, ref)
    return ref
