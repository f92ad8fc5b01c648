"""Export: a Hugging Face model folder of a checkpoint, with sampling defaults and a card of its lineage.

The folder loads with `AutoModelForCausalLM.from_pretrained(OUT)` and serves with any engine that does. Its
chat template is the one that was saved with the checkpoint by the stage that made it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from artifacts.errors import StoreError
from artifacts.files import entries, write_atomic
from artifacts.manifest import Manifest
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from artifacts.tables import read_table
from tasks.kinds import Kind
from tasks.model_card import Evaluated, ScoreRow, gather, model_card

GENERATION = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
"""The published evaluation protocol (paper D.1)."""
_NEEDED = ("config.json", "chat_template.jinja")


def export_model(store: ArtifactStore, ref: Ref, out: Path) -> Path:
    """Write checkpoint `ref` to the folder `out`; returns it.

    The card (`tasks.model_card`) states the scores of the newest evaluation of `ref` in the store, if there
    is one.

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
    write_configs(out)
    newest = next(iter(evaluations_of(store, ref)), None)
    evaluated = Evaluated(newest, read_scores(store, newest)) if newest else None
    template = (out / "chat_template.jinja").read_text()
    facts = gather(store, store.manifest(ref.digest), template, GENERATION, evaluated)
    write_atomic(out / "README.md", model_card(facts).encode())
    return out


def evaluations_of(store: ArtifactStore, ref: Ref) -> list[Manifest]:
    """The evaluation artifacts whose input `checkpoint` is `ref`, newest first."""
    found = [m for m in store.objects() if m.kind == Kind.evaluation and m.parents.get("checkpoint") == ref]
    return sorted(found, key=lambda manifest: manifest.created_at, reverse=True)


def read_scores(store: ArtifactStore, evaluation: Manifest) -> list[ScoreRow]:
    """The `scores` table of an evaluation."""
    table = read_table(store.fetch(evaluation.ref) / "scores")
    return [ScoreRow(**row) for row in table.to_pylist()]


def write_configs(out: Path, **generation: Any) -> None:
    """Sampling defaults of the paper; token ids of the model's own settings are kept, and its cache is on.

    `generation` are further defaults.
    """
    config, own = (_read_json(out / name) for name in ("config.json", "generation_config.json"))
    if config.get("use_cache") is False:  # training turned it off
        write_atomic(out / "config.json", _json(config | {"use_cache": True}))
    ids = {
        name: config[name]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        if config.get(name) is not None
    }
    write_atomic(out / "generation_config.json", _json(ids | own | GENERATION | generation))


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
