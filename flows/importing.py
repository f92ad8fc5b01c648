"""An artifact of one's own for a node: `r1 import FOLDER --as dev1`.

It is checked and made as the stage of its kind would make it: a model folder by the stage `base`, a file of
problems by `problems`, both in a job; a fine-tuning table is checked against its schema here. The manifest
says where it came from. It gets a name of its own (`tiny/dev1@import-1a2b`), and a recipe takes it only where
it is told to (`--use dev1=NAME`, or `use:` in the preset).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from artifacts.errors import CorruptArtifact
from artifacts.keys import cache_key
from artifacts.manifest import ManifestDraft
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import paths
from flows.experiments import checked_name
from flows.graph import Pipeline, key_of
from flows.runner import JobFailed, run_job
from tasks.base.folder import UnusableBase, check_folder
from tasks.base.stage import BASE, BaseConfig
from tasks.job.spec import BuildSpec, JobSpec
from tasks.kinds import Kind
from tasks.presets import PresetError, fingerprint
from tasks.problems.stage import PROBLEMS, ProblemsConfig
from tasks.recipe import Node, RecipeError, node_called
from tasks.settings import Settings
from tasks.stage import Stage


def import_artifact(
    store: ArtifactStore, pipeline: Pipeline, path: Path, node: str, name: str = ""
) -> tuple[str, Ref]:
    """Bring the folder or file in as what `node` would be; its name in the store, and the artifact.

    Raises:
        PresetError: no such node or path, or something that cannot stand for the node; nothing is published.
    """
    path = path.expanduser().resolve()
    if not path.exists():
        raise PresetError(f"{path} does not exist: give a model folder, or a Parquet file")
    try:
        node = node_called(node, pipeline.feeds, pipeline.student)
    except RecipeError as error:
        raise PresetError(f"--as: {error}") from None
    suffix = checked_name(name) if name else f"import-{fingerprint(path)[:4]}"
    ref_name = pipeline.ref_name(f"{node}@{suffix}")
    match pipeline.wired.stage_of(node).output:
        case Kind.checkpoint:
            folder = path / "model" if (path / "model" / "config.json").is_file() else path
            _check_model(folder)
            ref = _built(store, pipeline, node, BASE, BaseConfig(model=str(folder)), ref_name)
        case Kind.problems:
            ref = _built(store, pipeline, node, PROBLEMS, _problems(path), ref_name)
        case Kind.dataset:
            ref = _published_table(store, pipeline, node, path)
        case kind:
            raise PresetError(f"{node} is a {kind}, which cannot be imported: name a checkpoint or a table")
    store.set_ref(ref_name, ref)
    return ref_name, ref


def _check_model(folder: Path) -> None:
    try:
        check_folder(folder)
    except UnusableBase as error:
        raise PresetError(f"{folder}: {error}") from None


def _problems(path: Path) -> ProblemsConfig:
    config = ProblemsConfig.model_validate({"sources": [{"name": "parquet", "path": str(path)}]})
    try:
        config.sources[0].check()
    except ValueError as error:
        raise PresetError(f"{path}: {error}") from None
    return config


def _built(
    store: ArtifactStore, pipeline: Pipeline, node: str, stage: Stage, config: Settings, ref_name: str
) -> Ref:
    """By a job of its own, as every model and every stranger's file is read."""
    key = key_of(Node(node, stage, config), {})
    if store.lookup(key) is None:
        build = BuildSpec(
            node=node, stage=stage.name, config=config.model_dump(mode="json"), inputs={}, key=key,
            ref_name=ref_name,
        )  # fmt: skip
        try:
            run_job(JobSpec(work_root=paths.work_root(), preset=pipeline.name, builds=(build,)), _silent)
        except JobFailed as error:
            raise PresetError(str(error)) from None
    ref = store.lookup(key)
    assert ref is not None  # the job ended well
    return ref


def _silent(_: object) -> None:
    """Reading a folder is short: no progress is shown."""


def _published_table(store: ArtifactStore, pipeline: Pipeline, node: str, path: Path) -> Ref:
    """A fine-tuning table: `sft.parquet`, or a folder that holds it."""
    from artifacts.tables import read_table, write_table
    from tasks.tables import SFT, TABLES

    file = path / "sft.parquet" if path.is_dir() else path
    try:
        table = read_table(file)
        missing = [name for name in SFT.names if name not in table.column_names]
        if missing:
            raise PresetError(
                f"{file}: column {', '.join(missing)} is missing: a table `sft` has {SFT.names}"
            )
        rows = table.select(SFT.names).cast(SFT)
    except (OSError, CorruptArtifact, ValueError, NotImplementedError) as error:
        if isinstance(error, PresetError):
            raise
        raise PresetError(
            f"{file} is no Parquet file of the table `sft`: {str(error).splitlines()[0]}"
        ) from None
    texts = {name: {text.strip() for text in rows[name].to_pylist()} for name in ("prompt", "completion")}
    empty = [name for name, found in texts.items() if "" in found]
    if not rows.num_rows or empty:
        raise PresetError(f"{file}: {f'an empty {empty[0]}' if empty else 'no rows'}: fix the table")
    with tempfile.TemporaryDirectory(dir=_scratch()) as scratch:
        draft = Path(scratch) / "draft"
        draft.mkdir()
        write_table(draft / "sft.parquet", rows, SFT)
        config = {"imported_from": str(file), "sha256": fingerprint(file)}
        manifest = ManifestDraft(
            kind=Kind.dataset, stage="import", stage_version=1, node=node, preset=pipeline.name,
            key=cache_key("import", 1, {"sha256": config["sha256"], "kind": Kind.dataset}, {}),
            config=config, summary={"rows": rows.num_rows},
        )  # fmt: skip
        return store.publish(draft, manifest, TABLES)


def _scratch() -> Path:
    folder = paths.work_root() / "imports"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
