"""Which edits count as other code, and which files a stage is made of."""

import json
import shutil

import pytest

from artifacts.manifest import ManifestDraft
from tasks import source_code
from tasks.recipe import STAGES
from tasks.settings import REPOSITORY

REWARD = "tasks/rewards/terms/accuracy.py"


@pytest.fixture
def tree(tmp_path):
    for name in source_code.ROOMS:
        left_out = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=left_out)
    return tmp_path


def edit(tree, file, before, after):
    path = tree / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(
    ("stage", "has", "lacks"),
    [
        ("rl-zero", [REWARD, "tasks/rl/objective.py", "tasks/rewards/verifiers/math.py",
                     "tasks/rollout/engines/vllm.py"], ["tasks/sft/train.py", "flows/plan.py"]),
        ("sft", ["tasks/sft/train.py", "tasks/training/metrics.py"], [REWARD, "tasks/rl/train.py"]),
        ("problems", ["tasks/problems/sources/reasoning_gym.py"], ["tasks/rl/train.py"]),
        ("cold-start", ["tasks/cold_start/refiners/lexicon.py", REWARD], ["tasks/rl/objective.py"]),
        ("evaluate", ["tasks/evaluate/voting.py", REWARD], ["tasks/rl/objective.py"]),
        ("base", ["tasks/base/load.py"], [REWARD]),
    ],
)  # fmt: skip
def test_a_stage_is_made_of_what_it_imports_and_of_the_rooms_that_it_names(stage, has, lacks):
    files = source_code.sources(STAGES[stage].entry)
    assert set(has) <= set(files)
    assert not set(lacks) & set(files)
    assert all((REPOSITORY / name).is_file() for name in files)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_fits_into_a_manifest(stage):
    files = source_code.sources(STAGES[stage].entry)
    draft = ManifestDraft(
        kind="checkpoint", stage=stage, stage_version=1, node="n", key="a" * 64, sources=files
    )
    assert json.loads(draft.model_dump_json())["sources"] == files


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        ("class Accuracy", "# a comment\nclass Accuracy", False),
        ('"""', '"""Another word. ', False),
        ("    name: Literal", "\n\n    name: Literal", False),
        ("return", "return 0 *", True),
        ("class Accuracy", "class  Accuracy", False),
    ],
)
def test_documentation_and_layout_change_nothing_and_a_reward_does(tree, before, after, counts):
    files = source_code.sources(STAGES["rl-zero"].entry, tree)
    version = source_code.code_version(tree)
    assert source_code.changed(files, tree) == []
    edit(tree, REWARD, before, after)
    assert source_code.changed(files, tree) == ([REWARD] if counts else [])
    assert source_code.is_this_code(version, tree) is not counts
    assert source_code.code_bytes(tree) != version.partition("-")[0]


def test_a_file_that_is_gone_or_broken_is_other_code(tree):
    files = source_code.sources(STAGES["rl-zero"].entry, tree)
    (tree / REWARD).unlink()
    (tree / "tasks/rl/objective.py").write_text("def broken(:\n")
    assert source_code.changed(files, tree) == [REWARD, "tasks/rl/objective.py"]


def test_two_checkouts_of_one_code_have_one_version(tree):
    assert source_code.code_version(tree) == source_code.code_version()
    assert not source_code.is_this_code("")
    assert not source_code.is_this_code("unknown")
