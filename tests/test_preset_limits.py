"""Preset files from strangers: each trick is one sentence, in well under a second."""

import re

import pytest
import yaml

from tasks.presets import ALLOW_SERVER, CONFIGS, PresetError, available, load_preset, read_preset
from tests.timing import at_most

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGE_BOMB = "a0: &a0 {k: v, l: v, m: v}\n" + "".join(
    f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}], x{n}: v}}\n" for n in range(1, 25)
)
TRICKS = {
    "aliases of aliases": (BOMB, "line 5: more than 20,000 values, aliases written out"),
    "merged aliases": (MERGE_BOMB, "more than 20,000 values, aliases written out"),
    "an alias to itself": ("base: &a [1, *a]\n", "line 1: an alias refers to the branch that it stands in"),
    "a merge of itself": ("base: &a\n  <<: *a\n", "line 2: an alias refers to the branch"),
    "deep lists": ("a: " + "[" * 60_000, "line 1: nested deeper than 20 levels"),
    "deep mappings": ("{a: " * 15_000, "nested deeper than 20 levels"),
    "deep indentation": ("".join(" " * n + "a:\n" for n in range(300)), "nested deeper than 20 levels"),
    "a null character": ("base: {model: a\0b}\n", "holds a character that YAML does not allow"),
    "not UTF-8": (b"base: {model: \xff\xfe}\n", "holds a character that YAML does not allow"),
    "an integer of 5,000 digits": (f"a:\n  b: {'9' * 5000}\n", "line 2: an integer of 5,000 characters"),
    "an integer in base 60": (f"a: 1{':59' * 20_000}\n", "line 1: an integer of 60,001 characters"),
    "an impossible date": ("a: 2024-99-99\n", "line 1: month must be in 1..12"),
    "a list as a key": ("? [a]\n: b\n", "line 1: a key is a list or a mapping"),
    "a Python object": ("a: !!python/object/apply:os.system [id]\n", "line 1: could not determine a cons"),
    "a large file": ("a: " + "x" * 70_000, "is larger than 64 KiB"),
    "a large list": (f"base: [{', '.join('x' * 25_000)}]\n", "is larger than 64 KiB"),
    "no mapping": ("[]\n", "holds no settings"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_one_sentence_at_once(trick, tmp_path):
    content, sentence = TRICKS[trick]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with at_most(1), pytest.raises(PresetError) as caught:
        load_preset(str(path))
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_long_names_and_many_mistakes_are_told_shortly(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("".join(f"{'k' * 200}{n}: {'v' * 50}\n" for n in range(200)))
    with pytest.raises(PresetError, match=r"; and \d+ more$") as caught:
        load_preset(str(path))
    assert len(str(caught.value)) < 5_000


def test_a_pipe_is_no_preset(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(PresetError, match="is no plain file"):
        load_preset(str(tmp_path / "pipe.yaml"))


def with_server(tmp_path, url: str) -> str:
    document = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
    document["evaluation"]["engine"] = {"name": "vllm-server", "server_url": url}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.mark.parametrize(
    "url",
    [
        "http://collector.example:8000", "http://10.0.0.7:8000", "http://127.0.0.1@collector.example/",
        "http://collector.example\\@127.0.0.1/", "http://localhost.collector.example", "ftp://127.0.0.1",
        "http://[::ffff:10.0.0.7]:8000", "http://0x7f000001.example", "//127.0.0.1:8000", "http://[",
    ],
)  # fmt: skip
def test_a_preset_may_not_send_prompts_to_another_machine(url, tmp_path):
    with pytest.raises(PresetError) as caught:
        load_preset(with_server(tmp_path, url))
    assert re.search(
        r"evaluation\.engine\.server_url = .* is not on this machine: set R1_ALLOW", str(caught.value)
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost:1", "https://[::1]:8000/v1"])
def test_a_server_on_this_machine_is_fine(url, tmp_path):
    assert load_preset(with_server(tmp_path, url)).evaluation.engine.server_url == url


def test_the_user_may_name_hosts(tmp_path, monkeypatch):
    path = with_server(tmp_path, "http://Sampler.example:8000")
    monkeypatch.setenv(ALLOW_SERVER, "other.example, sampler.example")
    assert load_preset(path)
    monkeypatch.setenv(ALLOW_SERVER, "other.example")
    with pytest.raises(PresetError, match=r"set R1_ALLOW_SERVER=sampler\.example "):
        load_preset(path)
    monkeypatch.setenv(ALLOW_SERVER, "")
    with pytest.raises(PresetError, match="is not on this machine"):
        load_preset(with_server(tmp_path, "http://"))


@pytest.mark.parametrize("name", available())
def test_shipped_presets_are_far_below_the_limits(name):
    assert read_preset(name)
    assert (CONFIGS / f"{name}.yaml").stat().st_size < 8 * 1024
