"""Export: a Hugging Face model folder of a checkpoint, with sampling defaults and a card of its lineage.

The folder loads with `AutoModelForCausalLM.from_pretrained(OUT)` and serves with any engine that does. Its
chat template is the one that was saved with the checkpoint by the stage that made it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import StoreError
from artifacts.files import entries, write_atomic
from artifacts.lineage import lineage
from artifacts.manifest import Manifest
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from artifacts.tables import read_table
from tasks.kinds import Kind

GENERATION = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
"""The published evaluation protocol (paper D.1)."""
_NEEDED = ("config.json", "chat_template.jinja")


@dataclass(frozen=True)
class ScoreRow:
    """A row of a `scores` table."""

    domain: str
    metric: str
    value: float
    low: float
    high: float
    questions: int
    samples_per_question: int


def export_model(store: ArtifactStore, ref: Ref, out: Path) -> Path:
    """Write checkpoint `ref` to the folder `out`; returns it.

    The card states the scores of the newest evaluation of `ref` in the store, if there is one.

    Raises:
        StoreError: `ref` is no checkpoint, `out` is not empty, or the checkpoint holds no complete `model/`.
    """
    if ref.kind != Kind.checkpoint:
        raise StoreError(f"artifact {ref.short} is a {ref.kind}: only a checkpoint can be exported")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} is not empty: name a new folder")
    source = store.fetch(ref) / "model"
    for name in _NEEDED:
        if not (source / name).is_file():
            raise StoreError(
                f"artifact {ref.short} holds no model/{name}: name a checkpoint that this release made"
            )
    for name, path in entries(source).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)
    _write_configs(out)
    evaluations = evaluations_of(store, ref)
    scores = read_scores(store, evaluations[0]) if evaluations else []
    write_atomic(out / "README.md", model_card(store, store.manifest(ref.digest), scores).encode())
    return out


def evaluations_of(store: ArtifactStore, ref: Ref) -> list[Manifest]:
    """The evaluation artifacts whose input `checkpoint` is `ref`, newest first."""
    found = [m for m in store.objects() if m.kind == Kind.evaluation and m.parents.get("checkpoint") == ref]
    return sorted(found, key=lambda manifest: manifest.created_at, reverse=True)


def read_scores(store: ArtifactStore, evaluation: Manifest) -> list[ScoreRow]:
    """The `scores` table of an evaluation."""
    table = read_table(store.fetch(evaluation.ref) / "scores")
    return [ScoreRow(**row) for row in table.to_pylist()]


def model_card(store: ArtifactStore, manifest: Manifest, scores: Sequence[ScoreRow]) -> str:
    """The README: what it is, where it comes from, how it was made, what it scores."""
    graph = lineage(store, manifest.ref)
    made = f"{manifest.seconds:,.0f} s, {manifest.accelerator_hours:.3g} accelerator-hours"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
    return "\n".join(
        [
            "---", "library_name: transformers", "pipeline_tag: text-generation", "---", "",
            f"# {manifest.node} ({manifest.preset or 'no preset'})", "",
            f"Made by stage `{manifest.stage}` (version {manifest.stage_version}) of the DeepSeek-R1 recipe "
            f"in {made}, on {manifest.created_at:%Y-%m-%d}.", "",
            f"- artifact: `{manifest.digest}`", f"- code: `{manifest.code_revision or 'unknown'}`",
            f"- libraries: {versions or 'unknown'}", "",
            "## Lineage", "", "```text", graph.tree(), "```", "", "```mermaid", graph.mermaid(), "```", "",
            "## Scores", "", *_score_lines(scores), "",
            "## Settings of this stage", "", "```json",
            json.dumps(manifest.config, indent=2, sort_keys=True, ensure_ascii=False), "```", "",
        ]
    )  # fmt: skip


def _score_lines(scores: Sequence[ScoreRow]) -> list[str]:
    if not scores:
        return ["No evaluation of this checkpoint is in the store."]
    return [
        "Means over questions with 95% intervals.", "",
        "| domain | metric | value | 95% interval | questions | samples a question |",
        "| --- | --- | ---: | --- | ---: | ---: |",
        *(
            f"| {s.domain} | {s.metric} | {s.value:.3f} | {s.low:.3f} to {s.high:.3f} | {s.questions} "
            f"| {s.samples_per_question} |"
            for s in scores
        ),
    ]  # fmt: skip


def _write_configs(out: Path) -> None:
    """Sampling defaults of the paper; token ids of the model's own settings are kept, and its cache is on."""
    config, own = (_read_json(out / name) for name in ("config.json", "generation_config.json"))
    if config.get("use_cache") is False:  # training turned it off
        write_atomic(out / "config.json", _json(config | {"use_cache": True}))
    ids = {
        name: config[name]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        if config.get(name) is not None
    }
    write_atomic(out / "generation_config.json", _json(ids | own | GENERATION))


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
