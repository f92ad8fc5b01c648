"""Base folders from strangers: refused by name, key or size before torch is imported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.base.folder import UnusableBase, check_folder
from tasks.base.load import load_base
from tasks.base.stage import BaseConfig
from tasks.presets import CONFIGS, REPOSITORY, PresetError, load_preset
from tests.timing import at_most

TINY = REPOSITORY / "tasks/tiny_world/weights/tiny-base"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the shipped base."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def set_key(folder: Path, file: str, **keys) -> None:
    path = folder / file
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(document | keys))


def shard(folder: Path, name: str) -> None:
    """Replace the weights by an index that names `name`."""
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"a": name}})
    )


def header(folder: Path, document: dict) -> None:
    data = json.dumps(document).encode()
    (folder / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(64))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def link_out(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to("/etc/passwd")


def link_folder_out(folder: Path) -> None:
    (folder / "more").symlink_to("/etc")


def config(**keys):
    """Changes keys of config.json."""
    return lambda folder: set_key(folder, "config.json", **keys)


def raw_config(text: str):
    return lambda folder: (folder / "config.json").write_text(text)


def listed_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("[]")


def large_tensor(folder: Path) -> None:
    header(folder, {"x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 64]}})


HUB = "owner/kernel"
TRICKS = {
    "a million layers": (config(num_hidden_layers=10**6), "num_hidden_layers = 1000000, at most 512"),
    "layers that are no number": (config(num_hidden_layers="9" * 99), "num_hidden_layers = '999"),
    "a billion tokens": (config(vocab_size=10**9), "vocab_size = 1000000000"),
    "sizes inside a part": (config(text_config={"vocab_size": 10**9}), "vocab_size = 1000000000"),
    "wide layers": (config(hidden_size=10**6), "GiB of memory are free"),
    "many experts": (config(num_experts=10**7), "GiB of memory are free"),
    "5,000 digits": (raw_config('{"hidden_size": ' + "9" * 5000 + "}"), "is not JSON (Exceeds the limit"),
    "4,000 digits": (raw_config('{"vocab_size": ' + "9" * 4000 + "}"), "vocab_size = 99999999"),
    "a negative size": (config(hidden_size=-5), "hidden_size = -5"),
    "deep JSON": (raw_config('{"a": ' + "[" * 100_000), "nested too deeply"),
    "a long configuration": (raw_config(" " * 2**21 + "{}"), "larger than 1 MiB"),
    "a kernel of the hub": (config(_attn_implementation=HUB), "_attn_implementation = 'owner/kernel' is no"),
    "without underscore": (
        config(attn_implementation=HUB + "@v1"),
        "attn_implementation = 'owner/kernel@v1'",
    ),
    "for a part": (config(attn_implementation={"": HUB}), "attn_implementation = 'owner/kernel' is no"),
    "deep inside": (config(x=[{"_attn_implementation_internal": HUB}]), "_attn_implementation_internal = 'o"),
    "for experts": (config(experts_implementation=HUB), "experts_implementation = 'owner/kernel' is no"),
    "code of its own": (config(auto_map={"AutoConfig": "e.E"}), "config.json asks for code of its own"),
    "a tokenizer with code": (
        lambda folder: set_key(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["e.E"]}),
        "tokenizer_config.json asks for code of its own",
    ),
    "other weights": (config(transformers_weights="x.safetensors"), "names other weights ('x.safetensors')"),
    "an adapter": (
        lambda folder: set_key(folder, "adapter_config.json", base_model_name_or_path="/etc"),
        "it holds an adapter",
    ),
    "an index to elsewhere": (
        lambda folder: shard(folder, "/etc/passwd"),
        "names '/etc/passwd': it may only",
    ),
    "an index that climbs": (lambda folder: shard(folder, "../x.safetensors"), "names '../x.safetensors'"),
    "an index to a pickle": (lambda folder: shard(folder, "x.bin"), "names 'x.bin': it may only name"),
    "an index to nothing": (lambda folder: shard(folder, "x.safetensors"), "and there is no such file"),
    "an index of a list": (listed_index, "model.safetensors.index.json holds no JSON object"),
    "a link to a file": (link_out, "'vocab.txt' is a link out of the folder"),
    "a link to a folder": (link_folder_out, "'more' is a link out of the folder"),
    "a pipe": (lambda folder: os.mkfifo(folder / "pipe"), "'pipe' is no regular file"),
    "pickled weights only": (pickled, "only pickled weights (pytorch_model.bin), which can run code"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 99),
        "not a whole safetensors file",
    ),
    "tensors larger than the file": (large_tensor, "does not hold the tensors that its header lists"),
}


def test_the_shipped_bases_are_fine():
    for name in ("tiny-base", "tiny-student"):
        check_folder(TINY.parent / name)


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_one_sentence_at_once(trick, folder):
    change, sentence = TRICKS[trick]
    change(folder)
    with at_most(1), pytest.raises(UnusableBase) as refused:
        check_folder(folder)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_shards_of_the_folder_itself_are_loaded(folder):
    shard(folder, "part.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = json.loads(_header((folder / "part.safetensors").read_bytes()))
    index["weight_map"] = {name: "part.safetensors" for name in names if name != "__metadata__"}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model, _ = load_base(BaseConfig(model=str(folder)))
    assert model.num_parameters() > 2e6


def _header(data: bytes) -> bytes:
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def test_the_estimate_of_parameters_is_near_the_truth():
    from tasks.base.folder import _parameters, _stored_parameters

    for name in ("tiny-base", "tiny-student"):
        config = json.loads((TINY.parent / name / "config.json").read_text())
        stored = _stored_parameters(TINY.parent / name / "model.safetensors")
        assert 0.7 * stored < _parameters(config) < 1.4 * stored


def test_a_pickle_beside_safetensors_is_never_read(folder, tmp_path):
    import pickle

    class Run:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for name in ("pytorch_model.bin", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Run()))
    load_base(BaseConfig(model=str(folder)))
    assert not (tmp_path / "ran").exists()


def test_a_preset_with_a_refused_base_stops_before_torch(folder, tmp_path):
    set_key(folder, "config.json", num_hidden_layers=10**6)
    document = yaml.safe_load((CONFIGS / "tiny.yaml").read_text()) | {"base": {"model": str(folder)}}
    preset = tmp_path / "mine.yaml"
    preset.write_text(yaml.safe_dump(document))
    with pytest.raises(PresetError, match=r"mine.yaml: base.model = '.*': config.json: num_hidden_layers"):
        load_preset(str(preset))
    script = (
        "import sys\nfrom tasks.presets import PresetError, load_preset\n"
        "try: load_preset(sys.argv[1])\nexcept PresetError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(preset)], capture_output=True, text=True)
    assert done.stdout == "False\n"
