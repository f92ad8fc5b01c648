"""A place of its own for each test, presets as files, and a store with a whole run in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from artifacts.manifest import ManifestDraft
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows.graph import Pipeline, key_of, load_pipeline
from tasks.kinds import Kind
from tasks.presets import CONFIGS
from tasks.recipe import Node, current_name
from tasks.settings import Settings
from tasks.stage import Stage
from tasks.tables import TABLES
from tests.worlds import write_sft

WritePreset = Callable[..., str]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """`$R1_HOME`, empty, with its store and work folders below."""
    monkeypatch.setenv("R1_HOME", str(tmp_path / "home"))
    for name in ("R1_STORE", "R1_WORK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def store(home) -> ArtifactStore:
    return ArtifactStore.open()


@pytest.fixture
def preset(tmp_path) -> WritePreset:
    """Writes the tiny preset with some keys changed, e.g. `preset({"dev1.epochs": 1})`; its path."""

    def write(changes: dict[str, Any] | None = None) -> str:
        document = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            place = document
            for level, section in enumerate(sections):
                place = place[section if level else current_name(section)]
            place[last] = value
        path = tmp_path / "quick.yaml"
        path.write_text(yaml.safe_dump(document))
        return str(path)

    return write


@dataclass
class Publisher:
    """A `Maker` that publishes an artifact of a few bytes under each node's real key."""

    pipeline: Pipeline
    store: ArtifactStore
    folder: Path

    def fill(self, draft: Path, node: Node) -> None:
        """Write the artifact's files; data sets get rows, as they may be reviewed."""
        (draft / "content.txt").write_text(node.name)
        if node.stage.output == Kind.dataset:
            write_sft(draft, 12, seed=node.config.seed)

    def review(self, node: str, made: Ref) -> Ref:
        return made

    def make(self, node: str, stage: Stage, config: Settings, **inputs: Ref) -> Ref:
        planned = Node(node, stage, config)
        draft = self.folder / node
        draft.mkdir(parents=True)
        self.fill(draft, planned)
        manifest = ManifestDraft(
            kind=planned.stage.output, stage=planned.stage.name, stage_version=planned.stage.version,
            node=node, preset=self.pipeline.name, key=key_of(planned, inputs), parents=inputs,
            config=planned.config.model_dump(mode="json"),
        )  # fmt: skip
        ref = self.store.publish(draft, manifest, TABLES)
        self.store.set_ref(self.pipeline.ref_name(node), ref)
        return ref

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: dict[str, Ref], **inputs: Ref
    ) -> dict[str, Ref]:
        return {
            label: self.make(f"{node}.{label}", stage, config, **{stage.each: one}, **inputs)
            for label, one in each.items()
        }


@pytest.fixture
def built(preset, store, tmp_path) -> Pipeline:
    """The preset `quick`, every node of it in the store."""
    pipeline = load_pipeline(preset())
    pipeline.walk(Publisher(pipeline, store, tmp_path / "drafts"))
    return pipeline
