import pytest

from artifacts.refs import Ref
from flows.graph import check_inputs, configured, key_of, load_pipeline
from tasks.kinds import Kind
from tasks.presets import PresetError

CHECKPOINT = Ref(kind=Kind.checkpoint, digest="a" * 64)
PROBLEMS = Ref(kind=Kind.problems, digest="b" * 64)


@pytest.fixture
def pipeline(preset):
    return load_pipeline(preset())


def test_the_base_is_loaded_three_times_and_dev3_does_not_continue_dev2(pipeline):
    feeds = {node: inputs.get("checkpoint") for node, inputs in pipeline.feeds.items()}
    assert {node for node, feed in feeds.items() if feed == "base"} == {
        "r1-zero", "dev1", "dev3", "evaluation.base",
    }  # fmt: skip
    assert (feeds["dev2"], feeds["mixture"], feeds["reward-models"], feeds["r1"]) == (
        "dev1", "dev2", "dev3", "dev3",
    )  # fmt: skip
    assert feeds["tiny-student-distilled"] == feeds["tiny-student-rl-only"] == "tiny-student-base"


def test_every_checkpoint_is_evaluated_and_everything_reaches_the_report(pipeline):
    edges = pipeline.feeds
    checkpoints = [n.name for n in pipeline.nodes.values() if n.stage.output == Kind.checkpoint]
    assert {node for node in edges if node.startswith("evaluation.")} == {
        f"evaluation.{name}" for name in checkpoints
    }
    assert set(edges["report"].values()) == set(edges) - {"report"}


def test_another_student_replaces_the_presets(preset):
    pipeline = load_pipeline(preset(), "qwen-7b")
    assert pipeline.node("qwen-7b-distilled").config.learning_rate == 8e-5
    assert "tiny-student-base" not in pipeline.nodes


def test_an_evaluation_is_the_evaluate_node_under_its_name(pipeline):
    node = pipeline.node("evaluation.r1")
    assert (node.name, node.stage.name) == ("evaluation.r1", "evaluate")
    with pytest.raises(PresetError, match="no node 'dev4': use one of problems, base"):
        pipeline.node("dev4")


def test_overrides_are_checked_like_a_preset(pipeline):
    node = pipeline.node("dev2")
    assert configured(node, {"learning_rate": 1e-5}).config.learning_rate == 1e-5
    assert configured(node, {}) is node
    for bad, message in (
        ({"learning_rate": 5}, "config of dev2: learning_rate = 5"),
        ({"lerning_rate": 1e-5}, "config of dev2: lerning_rate is not a setting: did you mean learning_rate"),
        ({"launch": {"processes": 3}}, "config of dev2: .*choose a divisor"),
    ):
        with pytest.raises(PresetError, match=message):
            configured(node, bad)


def test_inputs_are_checked_by_name_and_kind(pipeline):
    stage = pipeline.node("r1-zero").stage
    check_inputs(stage, {"checkpoint": CHECKPOINT, "problems": PROBLEMS})
    for inputs, message in (
        ({"checkpoint": CHECKPOINT}, "stage rl-zero needs the input problems"),
        (
            {"checkpoint": PROBLEMS, "problems": PROBLEMS},
            "needs a checkpoint as checkpoint, and b+ is a",
        ),
        ({"checkpoint": CHECKPOINT, "problems": PROBLEMS, "data": PROBLEMS}, "has no input data: it has"),
    ):
        with pytest.raises(PresetError, match=message):
            check_inputs(stage, inputs)


def test_the_key_depends_on_settings_and_inputs_alone(pipeline):
    inputs = {"checkpoint": CHECKPOINT, "problems": PROBLEMS}
    node = pipeline.node("dev2")
    key = key_of(node, inputs)
    assert key == key_of(node, dict(reversed(inputs.items())))
    assert key == key_of(configured(node, {"micro_batch_tokens": 32}), inputs)
    assert key != key_of(configured(node, {"seed": 77}), inputs)
    assert key != key_of(node, inputs | {"problems": Ref(kind=Kind.problems, digest="c" * 64)})
    assert key != key_of(pipeline.node("r1-zero"), inputs)
