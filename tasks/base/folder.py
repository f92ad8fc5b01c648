"""Checks a folder with a model before anything loads it: files, configuration, and the memory it would take.

A base folder may come from a stranger. transformers follows what the files say: a weight index that names
files elsewhere, an adapter that names another model, an attention kernel that is code from the hub, a
configuration with a million layers. All of that is refused here from file names and small JSON files, so
it takes well under a second and no torch. Code and pickles in a folder are never run in any case
(`tasks.base.load` asks for neither).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tasks.rendering import written_here

MAX_FILES = 10_000
MAX_JSON = 64 * 2**20
"""Bytes of any JSON file; the largest tokenizers in use have about 35 MB."""
MAX_CONFIG = 2**20
MAX_LAYERS = 512
"""DeepSeek-V3 has 61 layers."""
MAX_TOKENS = 2_000_000
"""Vocabulary; the largest in use are near 260,000."""
MAX_POSITIONS = 100_000_000
MAX_SIZE = 100_000_000
"""Of a hidden layer, or the number of experts: keeps the estimate of memory a number that can be printed."""
_FLOAT32 = 4
"""Bytes: folders are loaded in float32, whatever their files hold."""
_GIB = 2**30

_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_INTERMEDIATE = ("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "d_ff")
_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


class UnusableBase(ValueError):
    """A folder that is not loaded; the message says what is wrong with it and what to do."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no plain model, or that is too large for this machine.

    Raises:
        UnusableBase: one sentence with file, key and value.
    """
    if not (folder / "config.json").is_file():
        raise UnusableBase("no config.json there; give a Hugging Face model folder")
    _check_files(folder)
    config = _read(folder / "config.json", MAX_CONFIG)
    check_config(config)
    _refuse_code(config, "config.json")
    for extra in ("tokenizer_config.json", "generation_config.json", "processor_config.json"):
        if (folder / extra).is_file():
            _refuse_code(_read(folder / extra, MAX_JSON), extra)
    weights = _weight_files(folder)
    _check_memory(max(_parameters(config), sum(map(_stored_parameters, weights))))


def has_chat_template(folder: Path) -> bool:
    """Whether the model has a chat template that this project did not write."""
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return not written_here(file.read_text())
    own = _read(settings, MAX_JSON).get("chat_template") if settings.is_file() else None
    return isinstance(own, str) and not written_here(own)


def check_config(config: dict[str, Any]) -> None:
    """Refuse sizes that no model has, and kernels from the hub; for folders and for hub models.

    Raises:
        UnusableBase: as `check_folder`.
    """
    limits = dict.fromkeys(_LAYERS, MAX_LAYERS) | dict.fromkeys(_POSITIONS, MAX_POSITIONS)
    limits["vocab_size"] = MAX_TOKENS
    for key, value in _entries(config):
        if key.endswith(("_implementation", "_implementation_internal")):
            _refuse_hub_kernel(key, value)
        if key == "transformers_weights":
            raise UnusableBase(f"config.json: {key} names other weights ({_brief(value)}): remove the key")
        limit = limits.get(key)
        if limit and (not isinstance(value, int | None) or (value or 0) > limit):
            raise UnusableBase(f"config.json: {key} = {_brief(value)}, at most {limit:,} is supported")


def _check_files(folder: Path) -> None:
    """Regular files only, all inside the folder, and weights that are not pickled."""
    root = folder.resolve()
    for number, path in enumerate(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if number == MAX_FILES:
            raise UnusableBase(f"it holds more than {MAX_FILES:,} files: give the folder of one model")
        if not (path.is_file() or path.is_dir()):
            raise UnusableBase(f"{_brief(name)} is no regular file: remove it")
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UnusableBase(
                f"{_brief(name)} is a link out of the folder: copy the model with `cp -rL` and name the copy"
            )
    if (folder / "adapter_config.json").exists():
        # transformers would load the model that the adapter names in place of this one.
        raise UnusableBase(
            "it holds an adapter (adapter_config.json): merge the adapter into its model first"
        )


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers will read."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        pickled = next(iter(sorted(p.name for p in folder.glob("*.bin"))), None)
        found = f"only pickled weights ({pickled}), which can run code" if pickled else "no model.safetensors"
        raise UnusableBase(f"it holds {found}: save the model as safetensors")
    named = _read(index, MAX_JSON).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise UnusableBase(f"{index.name}: weight_map names no files: save the model again")
    return [_inside(folder, name, index.name) for name in sorted({str(name) for name in named.values()})]


def _inside(folder: Path, name: str, index: str) -> Path:
    """The file `name` of the folder itself; a path to anywhere else is refused."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or not name.endswith(".safetensors"):
        raise UnusableBase(f"{index} names {_brief(name)}: it may only name safetensors files of its folder")
    if not (folder / name).is_file():
        raise UnusableBase(f"{index} names {_brief(name)}, and there is no such file: copy the whole model")
    return folder / name


def _stored_parameters(path: Path) -> int:
    """How many numbers a safetensors file holds, from its header: 8 bytes of length, then JSON."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_JSON):
            raise UnusableBase(f"{path.name} is not a whole safetensors file: copy it again")
        header = _parse(file.read(length), path.name)
    shapes = [tensor.get("shape") for tensor in header.values() if isinstance(tensor, dict)]
    # No type of safetensors is smaller than half a byte a number.
    return sum(_count(shape, 2 * size, path.name) for shape in shapes if isinstance(shape, list))


def _count(shape: list[Any], most: int, name: str) -> int:
    total = 1
    for side in shape:
        total *= side if isinstance(side, int) else most + 1
        if not 0 <= total <= most:
            raise UnusableBase(f"{name} does not hold the tensors that its header lists: copy it again")
    return total


def _parameters(config: dict[str, Any]) -> int:
    """About how many parameters a model of this configuration gets, whether or not its files hold them.

    transformers allocates every weight that the configuration asks for. Embeddings and a gated block of
    attention and feed-forward layers; right within about a third for the architectures in use.
    """
    config = config | (config["text_config"] if isinstance(config.get("text_config"), dict) else {})
    hidden, layers = _size(config, _HIDDEN, 0), _size(config, _LAYERS, 1)
    intermediate = _size(config, _INTERMEDIATE, 4 * hidden)
    feed_forward = 3 * hidden * intermediate * max(_size(config, _EXPERTS, 1), 1)
    # Only models without rotary positions learn a vector for each position.
    positions = 0 if any("rope" in key or "rotary" in key for key in config) else _size(config, _POSITIONS, 0)
    embeddings = (_size(config, ("vocab_size",), 0) + positions) * hidden
    return embeddings + layers * (2 * hidden * hidden + feed_forward)


def _size(config: dict[str, Any], names: tuple[str, ...], default: int) -> int:
    found = next((config[name] for name in names if config.get(name) is not None), default)
    if not isinstance(found, int) or not 0 <= found <= MAX_SIZE:
        raise UnusableBase(f"config.json: {names[0]} = {_brief(found)}, at most {MAX_SIZE:,} is supported")
    return found


def _check_memory(parameters: int) -> None:
    needed, free = parameters * _FLOAT32, psutil.virtual_memory().available
    if needed > free:
        raise UnusableBase(
            f"its {parameters:,} parameters take {needed / _GIB:,.1f} GiB in float32 and "
            f"{free / _GIB:,.1f} GiB of memory are free: use a smaller model or a larger machine"
        )


def _refuse_code(settings: dict[str, Any], file: str) -> None:
    if any(key == "auto_map" for key, _ in _entries(settings)):
        raise UnusableBase(
            f"{file} asks for code of its own (auto_map), which is never run: remove the key if the model is "
            "one that transformers knows"
        )


def _refuse_hub_kernel(key: str, value: Any) -> None:
    """`owner/name` as an attention implementation is code that transformers fetches from the hub and runs."""
    names = value.values() if isinstance(value, dict) else [value]
    for name in names:
        if name is not None and not (isinstance(name, str) and re.fullmatch(r"[a-z0-9_]*", name)):
            raise UnusableBase(f"config.json: {key} = {_brief(name)} is no built-in kernel: remove the key")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            yield from current.items()
            waiting += current.values()
        elif isinstance(current, list):
            waiting += current


def _read(path: Path, limit: int) -> dict[str, Any]:
    if path.stat().st_size > limit:
        raise UnusableBase(f"{path.name} is larger than {limit // 2**20} MiB: this is no model in use")
    return _parse(path.read_bytes(), path.name)


def _parse(data: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except RecursionError:
        raise UnusableBase(f"{name} is nested too deeply: copy it again") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of more than 4,300 digits
        raise UnusableBase(f"{name} is not JSON ({str(error).splitlines()[0]}): copy it again") from None
    if not isinstance(document, dict):
        raise UnusableBase(f"{name} holds no JSON object: copy it again")
    return document


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
