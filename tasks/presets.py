"""Presets and students from `configs/`, checked before anything starts.

A preset is a name (`configs/NAME.yaml`) or a path to a YAML file. Its sections are called as the nodes of the
recipe; the names that they had before (`tasks.recipe.FORMER_NAMES`) and `_` for `-` are understood. Every
complaint is one sentence that names the file, the key, the value and the remedy.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from tasks.base.folder import UnusableBase, check_folder, has_chat_template
from tasks.base.stage import SMOLLM2, BaseConfig
from tasks.language_models.settings import Endpoint, host_of, is_loopback
from tasks.preset_file import SettingsFileError, read_settings
from tasks.problems.stage import ProblemsConfig
from tasks.recipe import SECTIONS, current_name
from tasks.rendering import CHAT
from tasks.rollout.settings import EngineSettings
from tasks.settings import REPOSITORY, BuiltSettings, Settings
from tasks.sft.stage import SFTConfig
from tasks.stage import Stage

CONFIGS = REPOSITORY / "configs"
_TOLD = 10
"""Mistakes of one file that are told at once."""
_WHOLE = 128 * 2**20
"""Bytes up to which a file's fingerprint reads all of it."""

ALLOW_SERVER = "R1_ALLOW_SERVER"
"""Environment variable: hosts, separated by commas, that `engine.server_url` and endpoints of language models
may name beside this machine."""

Config = TypeVar("Config", bound=BaseModel)
Changes = Mapping[str, Any]
"""Dotted key -> value that replaces the file's; a key that ends in a number replaces one entry of a list."""


class PresetError(ValueError):
    """A preset or student that cannot be used."""


class StudentConfig(Settings):
    """One student: its base and how it is fine-tuned (`configs/students/NAME.yaml`; B.4.3)."""

    base: BaseConfig
    distill: SFTConfig = SFTConfig(batch_size=64)


class ReviewConfig(Settings):
    """Human review: the run waits for a decision on these data sets before it uses them (docs/running.md)."""

    nodes: tuple[str, ...] = ()
    """`cold-start`, `mixture`; none by default."""
    rows: Annotated[int, Field(ge=1, le=1_000)] = 50
    """Sampled rows that are shown."""


class Preset(BuiltSettings):
    """The whole pipeline in one file: a section for each line of `tasks.recipe.recipe`, and a student."""

    student: str
    """A file of `configs/students`, without `.yaml`."""
    skip: tuple[str, ...] = ()
    """Nodes that are left out; `r1 plan` shows what takes their place (`tasks.recipe.Shape`)."""
    use: dict[str, str] = Field(default_factory=dict)
    """Node -> an artifact of the store (a name or digest) that is taken in the place of making it."""
    review: ReviewConfig = ReviewConfig()
    """Data sets that a person reviews before they are used."""

    if TYPE_CHECKING:  # the sections are the recipe's: `_whole_preset` below

        def __getattr__(self, section: str) -> Any: ...


def _section(name: str, stage: Stage) -> Any:
    """A section must be given unless its stage has no settings at all."""
    default = ... if stage.config.model_fields else stage.config()
    return (stage.config, Field(default, alias=name.replace("_", "-")))


@cache
def _whole_preset() -> type[Preset]:
    """`Preset` with the recipe's sections; built on first use, since importing the flows must stay quick."""
    sections = {name: _section(name, stage) for name, stage in SECTIONS.items()}
    return create_model("Preset", __base__=Preset, **sections)


def load_preset(name_or_path: str, changes: Changes | None = None) -> Preset:
    """The preset with `changes`, the files it names known to exist.

    Raises:
        PresetError: unknown preset, unknown key, value out of range, missing file.
    """
    path = _find(name_or_path, CONFIGS, "preset")
    preset = read_preset(name_or_path, changes)
    _check_problems(path, preset.problems, list(preset.evaluation.benchmarks))
    _check_base(path, "base.model", preset.base)
    _check_servers(path, preset)
    _check_chat(path, preset, load_student(preset.student))
    return preset


def read_preset(name_or_path: str, changes: Changes | None = None) -> Preset:
    """The preset's settings, whether or not the files they name are there.

    Raises:
        PresetError: unknown preset, unknown key, value out of range.
    """
    path = _find(name_or_path, CONFIGS, "preset")
    return _with_benchmarks(path, _parse(path, _whole_preset(), changes))


def _with_benchmarks(path: Path, preset: Preset) -> Preset:
    """The preset whose problems hold the benchmarks that it is evaluated on.

    Their questions are held out, so training problems that copy them are dropped. They come first: of two
    equal held-out questions the first is kept.
    """
    if not preset.evaluation.benchmarks:
        return preset
    added = [benchmark.source(name) for name, benchmark in preset.evaluation.benchmarks.items()]
    document = preset.problems.model_dump(mode="json")
    try:
        problems = ProblemsConfig.model_validate(document | {"sources": [*added, *document["sources"]]})
    except ValidationError as error:
        told = complaint(_shown(path), ProblemsConfig, error.errors()[0])
        raise PresetError(f"{told} (evaluation.benchmarks)") from None
    return preset.model_copy(update={"problems": problems})


def former_names(name_or_path: str) -> dict[str, str]:
    """Sections of a preset file that bear a former name -> how they are called now."""
    document = read_settings(_find(name_or_path, CONFIGS, "preset"))
    return {name: now for name in document if (now := current_name(str(name))) != name.replace("_", "-")}


def load_student(name_or_path: str, changes: Changes | None = None) -> StudentConfig:
    """A student of `configs/students`.

    Raises:
        PresetError: as `load_preset`.
    """
    path = _find(name_or_path, CONFIGS / "students", "student")
    student = _parse(path, StudentConfig, changes)
    _check_base(path, "base.model", student.base)
    return student


def preset_name(name_or_path: str) -> str:
    """What the names of a preset's artifacts begin with.

    A shipped preset (`tiny`, `configs/tiny.yaml`) has its own name. A file elsewhere is called after its stem
    and its path (`my/tiny.yaml` is `tiny-1a2b`), so that no two files share names. The path counts from the
    repository, where the file lies in it: two checkouts agree. Its content decides the keys, and so what is
    made again; an edited file goes on under its names, and `r1 plan` says what changed.
    """
    return _name(name_or_path, CONFIGS)


def student_name(name_or_path: str) -> str:
    """What the nodes of a student begin with: as `preset_name`; a file whose stem no shipped student has
    keeps it plain."""
    stem = _plain_stem(Path(name_or_path))
    if _is_path(name_or_path) and stem not in available(CONFIGS / "students"):
        return stem
    return _name(name_or_path, CONFIGS / "students")


def _name(name_or_path: str, shipped: Path) -> str:
    path = Path(name_or_path).expanduser().resolve()
    if not _is_path(name_or_path):
        return name_or_path
    if path.parent == shipped.resolve():
        return path.stem
    digest = hashlib.sha256(_shown(path).encode()).hexdigest()
    return f"{_plain_stem(path)}-{digest[:4]}"


def _plain_stem(path: Path) -> str:
    """With `-` for what a name of the store may not hold."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", path.stem).strip("-.") or "preset"


def available(folder: Path = CONFIGS) -> list[str]:
    """The names that can be given instead of a path."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def outside_files(config: Settings) -> dict[str, str]:
    """Setting -> fingerprint of the files that the stage reads from outside the store; part of its key.

    A base trained again or problems edited in place are another input under the same path.
    """
    paths = {name: REPOSITORY / Path(path).expanduser() for name, path in config.files().items()}
    return {name: fingerprint(path) for name, path in paths.items() if path.exists()}


def fingerprint(path: Path) -> str:
    """SHA-256 over the names, sizes and contents of a file or folder; empty where there is none.

    Of a file above 128 MiB only the first and the last 64 MiB are read, so that planning stays quick.
    """
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            return ""
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_WHOLE // 2))
            stream.seek(max(size - _WHOLE // 2, stream.tell()))
            digest.update(stream.read())
    return digest.hexdigest()


def _find(name_or_path: str, folder: Path, what: str) -> Path:
    path = Path(name_or_path).expanduser() if _is_path(name_or_path) else folder / f"{name_or_path}.yaml"
    if path.is_file():
        return path
    if _is_path(name_or_path):
        state = "is a folder" if path.is_dir() else "is no plain file" if path.exists() else "does not exist"
        raise PresetError(f"{what} file {name_or_path!r} {state}: give the path of a YAML file")
    names = available(folder)
    close = difflib.get_close_matches(name_or_path, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(names) or '(none yet)'}"
    if Path(name_or_path).exists():
        hint = f"give a path as ./{name_or_path}"
    raise PresetError(f"{what} {name_or_path!r} has no file in {_shown(folder)}: {hint}")


def _is_path(name_or_path: str) -> bool:
    return "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))


def _shown(path: Path) -> str:
    """Relative to the repository where it lies there."""
    resolved = path.resolve()
    return str(resolved.relative_to(REPOSITORY)) if resolved.is_relative_to(REPOSITORY) else str(path)


def _parse(path: Path, model: type[Config], changes: Changes | None = None) -> Config:
    try:
        document: Any = (
            _current(path, read_settings(path)) if issubclass(model, Preset) else read_settings(path)
        )
        for key, value in (changes or {}).items():
            document = _with(document, key.split("."), value)
        return model.model_validate(document)
    except SettingsFileError as error:
        raise PresetError(f"{_shown(path)} {error}") from None
    except ValidationError as error:
        found = _each_once(error.errors())
        told = [complaint(_shown(path), model, detail) for detail in found[:_TOLD]]
        more = [f"and {len(found) - _TOLD} more"] if len(found) > _TOLD else []
        raise PresetError("; ".join(told + more)) from None


def _each_once(found: list[ErrorDetails]) -> list[ErrorDetails]:
    """Of the same mistake in several sections, which share it through a YAML anchor, only the first."""
    first: dict[Any, ErrorDetails] = {}
    for error in found:
        below = error["loc"][1:] or error["loc"]
        first.setdefault((error["type"], below, error["msg"], repr(error["input"])), error)
    return list(first.values())


def _current(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """The document with its sections called as the nodes are."""
    renamed: dict[str, Any] = {}
    for name, value in document.items():
        known = current_name(name) if isinstance(name, str) else name
        if known in renamed:
            raise PresetError(f"{_shown(path)}: section {known} stands twice, once as {name}: remove one")
        renamed[known] = value
    return renamed


def _with(document: Any, key: list[str], value: Any) -> Any:
    """A copy with the value at `key`; nothing is changed in place, since YAML's aliases share branches."""
    if not key:
        return value
    first, *rest = key
    if isinstance(document, list) and first.isdigit() and int(first) < len(document):
        place = int(first)
        return [*document[:place], _with(document[place], rest, value), *document[place + 1 :]]
    inner = document if isinstance(document, Mapping) else {}
    return {**inner, first: _with(inner.get(first), rest, value)}


def complaint(source: str, model: type[BaseModel], detail: ErrorDetails) -> str:
    """One sentence about a setting of `source`, a file or what else gave it."""
    key = _brief(".".join(str(part) for part in detail["loc"]))
    where = f"{source}: {key}" if key else source
    match detail["type"]:
        case "extra_forbidden":
            return f"{where} is not a setting: {_nearest(model, detail['loc'])}"
        case "missing":
            return f"{where} is missing: add it"
        case "value_error":
            return f"{where}: {str(detail['ctx']['error']).rstrip('.')}"
    return f"{where} = {_brief(repr(detail['input']))}: {_rule(detail['msg'])}"


def _brief(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _rule(message: str) -> str:
    """Pydantic's rule as an instruction."""
    rule = message.removeprefix("Input should be ")
    return f"must be {rule}" if rule != message else message[:1].lower() + message[1:]


def _nearest(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    fields = sorted(_fields_at(model, location[:-1]))
    close = difflib.get_close_matches(str(location[-1]), fields, n=1)
    return f"did you mean {close[0]}?" if close else f"remove it; the settings there are {', '.join(fields)}"


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """The field names of the models that lie at `location` below `model`; of the entries of a list too."""
    models: set[type[BaseModel]] = {model}
    for part in location:
        named = {m for m in models if str(part) == getattr(m.model_fields.get("name"), "default", None)}
        place = str(part).replace("-", "_")  # sections are called as the nodes are
        fields = [m.model_fields[place] for m in models if place in m.model_fields]
        if fields:
            models = {inner for field in fields for inner in _models_in(field.annotation)}
        elif named:
            models = named  # pydantic puts the name of a reward term or source into the place
    return {field.alias or name for m in models for name, field in m.model_fields.items()}


def _models_in(kind: Any) -> set[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {kind}
    return {model for argument in get_args(kind) for model in _models_in(argument)}


def _check_problems(path: Path, config: ProblemsConfig, benchmarks: Sequence[str]) -> None:
    """Refuse files that are not there or cannot be read. The first sources are those of the benchmarks."""
    for setting, named in config.files().items():
        if not (REPOSITORY / Path(named).expanduser()).exists():
            what = "a Parquet file or folder of the problems schema"
            group, number, *rest = setting.split(".")
            place = f"problems.{setting}"
            if group == "sources" and int(number) < len(benchmarks):
                place = f"evaluation.benchmarks.{benchmarks[int(number)]}.path"
                what = "a copy of the benchmark, a file or folder"
            elif group == "sources":
                place = ".".join(("problems.sources", str(int(number) - len(benchmarks)), *rest))
            raise PresetError(
                f"{_shown(path)}: {place} = {named!r} does not exist: give {what}, absolute or relative to "
                "the repository"
            )
    for source in config.sources:
        try:
            source.check()
        except ValueError as error:
            raise PresetError(f"{_shown(path)}: problems.{source.name}: {error}") from None


def _check_base(path: Path, key: str, config: BaseConfig) -> None:
    if config.model == SMOLLM2 or config.on_hub:
        return
    if not config.folder.is_dir():
        raise PresetError(
            f"{_shown(path)}: {key} = {config.model!r} does not exist: "
            f"give a folder with a Hugging Face model, a hub name (owner/name) or {SMOLLM2}"
        )
    try:
        check_folder(config.folder)
    except UnusableBase as error:
        raise PresetError(f"{_shown(path)}: {key} = {config.model!r}: {error}") from None


def _check_chat(path: Path, preset: Preset, student: StudentConfig) -> None:
    """Refuse `template: chat` where a base in a folder has no chat template; hub models are asked later."""
    asked = next((name for name, settings in preset if getattr(settings, "template", "") == CHAT), "")
    for base in (preset.base, student.base):
        if asked and base.folder.is_dir() and not has_chat_template(base.folder):
            raise PresetError(
                f"{_shown(path)}: {asked}.template = {CHAT!r}, and {base.model} has no chat template: use "
                "r1, plain or a text with {question}, or a base with one"
            )


def _check_servers(path: Path, preset: Preset) -> None:
    """Refuse servers on other machines, unless the user named them.

    A preset may come from a stranger, and whoever runs the server reads every prompt and the API key, and
    writes completions that are trained on.
    """
    allowed = {host.strip().lower() for host in os.environ.get(ALLOW_SERVER, "").split(",")} - {""}
    for section, settings in preset:
        for key, url in _servers(section.replace("_", "-"), settings):
            if (host := host_of(url)) in allowed or is_loopback(host):
                continue
            raise PresetError(
                f"{_shown(path)}: {key} = {_brief(repr(url))} is not on this machine: "
                f"set {ALLOW_SERVER}={host or 'HOST'} (and restart the workers by `r1 down`) if you trust it"
            )


def _servers(place: str, settings: Any) -> Iterator[tuple[str, str]]:
    """Dotted key and address of every server that settings name, at any depth."""
    if isinstance(settings, EngineSettings) and settings.server_url:
        yield f"{place}.server_url", settings.server_url
    if isinstance(settings, Endpoint):
        yield f"{place}.url", settings.url
    if isinstance(settings, tuple):
        for number, item in enumerate(settings):
            yield from _servers(f"{place}.{number}", item)
    if isinstance(settings, Settings):
        for name, value in settings:
            yield from _servers(f"{place}.{name}", value)
