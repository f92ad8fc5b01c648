"""Export: a Hugging Face model folder of a checkpoint, with a chat template and a card of its lineage.

The folder loads with `AutoModelForCausalLM.from_pretrained(OUT)` and serves with any engine that does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.catalog import evaluations_of
from artifacts.errors import StoreError
from artifacts.files import entries, write_atomic
from artifacts.lineage import lineage
from artifacts.manifest import Manifest
from artifacts.refs import Kind, Ref
from artifacts.store import ArtifactStore

QUESTION = "{question}"
"""Stands for the question in a prompt template."""
GENERATION = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
"""The published evaluation protocol (paper D.1)."""


@dataclass(frozen=True)
class Score:
    """A row of a `scores` table."""

    domain: str
    metric: str
    value: float
    low: float
    high: float
    questions: int
    samples_per_question: int


def export_model(
    store: ArtifactStore,
    ref: Ref,
    out: Path,
    prompt_template: str,
    generation: Mapping[str, Any] = GENERATION,
) -> Path:
    """Write checkpoint `ref` to the folder `out`; returns it.

    `prompt_template` is the text the model was trained to continue, `{question}` where the question goes.
    The card states the scores of the newest evaluation of `ref` in the store, if there is one.

    Raises:
        StoreError: `ref` is no checkpoint, `out` is not empty, or the checkpoint holds no `model/`.
    """
    if ref.kind != Kind.checkpoint:
        raise StoreError(f"artifact {ref.short} is a {ref.kind}: only a checkpoint can be exported")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} is not empty: name a new folder")
    template = chat_template(prompt_template)
    source = store.fetch(ref) / "model"
    if not (source / "config.json").is_file():
        raise StoreError(f"artifact {ref.short} holds no model/config.json: name a checkpoint with a model")
    for name, path in entries(source).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)
    _write_settings(out, template, generation)
    evaluations = evaluations_of(store, ref)
    scores = read_scores(store, evaluations[0]) if evaluations else []
    write_atomic(out / "README.md", model_card(store, store.manifest(ref.digest), scores).encode())
    return out


def chat_template(prompt_template: str) -> str:
    """Jinja that renders one or more turns as training did; a system message goes before the question.

    Raises:
        StoreError: `{question}` does not stand in the template exactly once.
    """
    before, _, after = prompt_template.partition(QUESTION)
    if prompt_template.count(QUESTION) != 1:
        raise StoreError(f"the prompt template {prompt_template!r} must hold {QUESTION} once")
    return (
        "{%- set ns = namespace(system='') -%}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}{%- set ns.system = message['content'] + '\\n\\n' -%}"
        "{%- elif message['role'] == 'user' -%}"
        f"{{{{- {json.dumps(before)} + ns.system + message['content'] + {json.dumps(after)} -}}}}"
        "{%- set ns.system = '' -%}"
        "{%- else -%}{{- message['content'] + eos_token -}}"
        "{%- endif -%}"
        "{%- endfor -%}"
    )


def read_scores(store: ArtifactStore, evaluation: Manifest) -> list[Score]:
    """The `scores` table of an evaluation."""
    from artifacts.tables import read_table

    table = read_table(store.fetch(evaluation.ref) / "scores")
    return [Score(**row) for row in table.to_pylist()]


def model_card(store: ArtifactStore, manifest: Manifest, scores: Sequence[Score]) -> str:
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


def _score_lines(scores: Sequence[Score]) -> list[str]:
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


def _write_settings(out: Path, template: str, generation: Mapping[str, Any]) -> None:
    """Chat template and sampling defaults; token ids of the model's own settings are kept."""
    write_atomic(out / "chat_template.jinja", template.encode())
    tokenizer = _read_json(out / "tokenizer_config.json")
    if tokenizer.pop("chat_template", None) is not None:
        _write_json(out / "tokenizer_config.json", tokenizer)
    config = _read_json(out / "config.json")
    ids = {
        name: config[name]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        if config.get(name) is not None
    }
    own = _read_json(out / "generation_config.json")
    _write_json(out / "generation_config.json", ids | own | dict(generation))


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_atomic(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
