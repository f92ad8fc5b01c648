"""Names of experiments, and that nothing but the recipe takes the recipe's names."""

import shutil

import pytest
from typer.testing import CliRunner

from artifacts.checks import ref_name
from flows import cli, stage_run
from flows.experiments import Variant, label, parsed_changes, parsed_uses, recipes_own
from flows.graph import key_of, load_pipeline
from flows.plan import plan
from flows.stage_flows import flow_parameters
from tasks.presets import CONFIGS, PresetError, preset_name, read_preset
from tasks.recipe import FORMER_NAMES, SECTIONS, wiring
from tasks.settings import REPOSITORY
from tests.flows.conftest import Publisher


def named(pipeline, store, node, names=None, config=None, name=""):
    stage = pipeline.node(node).stage.name
    return stage_run.plan_build(pipeline, store, stage, node, names or {}, config or {}, name)


def test_a_preset_elsewhere_shares_no_name_with_a_shipped_one_or_with_another_file(tmp_path):
    paths = [tmp_path / folder / "tiny.yaml" for folder in ("my", "your")]
    for path in paths:
        path.parent.mkdir()
        shutil.copy(CONFIGS / "tiny.yaml", path)
    names = {preset_name("tiny"), *(preset_name(str(path)) for path in paths)}
    assert len(names) == 3
    assert preset_name("configs/tiny.yaml") == preset_name(str(CONFIGS / "tiny.yaml")) == "tiny"
    assert all(ref_name(f"{name}/dev1") for name in names)


@pytest.mark.parametrize("stem", ["my tiny", "ünïcode", "a:b", "deadbeef", ".hidden", "--"])
def test_every_file_name_gives_a_name_that_the_store_takes(stem, tmp_path):
    path = tmp_path / f"{stem}.yaml"
    shutil.copy(CONFIGS / "tiny.yaml", path)
    assert ref_name(load_pipeline(str(path)).ref_name("dev1"))


def test_a_path_means_the_same_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert preset_name("./my.yaml") == preset_name(str(tmp_path / "my.yaml")) == preset_name("x/../my.yaml")
    inside = REPOSITORY / "mine" / "quick.yaml"
    monkeypatch.chdir(REPOSITORY)
    assert preset_name("mine/quick.yaml") == preset_name(str(inside))


def test_sections_are_called_as_their_nodes_and_former_names_are_understood(preset, tmp_path):
    pipeline = load_pipeline("tiny")
    nodes = {name.replace("tiny-student", "student") for name in pipeline.nodes}
    assert {section.replace("_", "-") for section in SECTIONS} == nodes - {
        "student-base",
        "student-distilled",
    }
    old = (CONFIGS / "tiny.yaml").read_text()
    for was, now in FORMER_NAMES.items():
        old = old.replace(f"\n{now}:", f"\n{was.replace('-', '_')}:")
    (tmp_path / "old.yaml").write_text(old)
    loaded = load_pipeline(str(tmp_path / "old.yaml"))
    assert loaded.preset == read_preset("tiny")
    assert any("rl_zero is called r1-zero now" in hint for hint in loaded.hints)
    assert load_pipeline("tiny").hints == ()
    (tmp_path / "twice.yaml").write_text(old + "\nr1-zero: {}\n")
    with pytest.raises(PresetError, match="section r1-zero stands twice"):
        load_pipeline(str(tmp_path / "twice.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dev2.learning_rate=1e-5", {"dev2.learning_rate": 1e-5}),
        ("dev2.steps=9", {"dev2.steps": 9}),
        ("dev2.rewards=[{name: accuracy}]", {"dev2.rewards": [{"name": "accuracy"}]}),
        ("r1.general_last_steps=null", {"r1.general_last_steps": None}),
        ("dev1.template=a=b", {"dev1.template": "a=b"}),
    ],
)
def test_set_takes_any_value(text, value):
    assert parsed_changes([text]) == value


@pytest.mark.parametrize("text", ["dev2", "steps=9", "dev2.steps", "dev2.x=[1"])
def test_a_set_that_cannot_be_read_is_one_sentence(text):
    with pytest.raises(PresetError, match=r"--set '") as refused:
        parsed_changes([text])
    assert "\n" not in str(refused.value)
    with pytest.raises(PresetError, match="--use"):
        parsed_uses(["dev1"])


@pytest.mark.parametrize(
    ("key", "value", "node", "setting"),
    [
        ("dev2.learning_rate", 1e-5, "dev2", "learning_rate"),
        ("reasoning_rl.learning_rate", 1e-5, "dev2", "learning_rate"),
        ("r1_zero.steps", 3, "r1-zero", "steps"),
        ("student-distilled.epochs", 1.0, "tiny-student-distilled", "epochs"),
        ("tiny-student-rl-only.steps", 3, "tiny-student-rl-only", "steps"),
        ("evaluation.samples_per_problem", 2, "evaluation", "samples_per_problem"),
    ],
)
def test_a_change_reaches_its_node_and_no_other(key, value, node, setting):
    own, changed = load_pipeline("tiny"), load_pipeline("tiny", variant=Variant({key: value}))
    assert getattr(changed.node(node).config, setting) == value
    others = {name for name in own.nodes if own.nodes[name].config != changed.nodes[name].config}
    assert others == {node}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dev2.learning_rat": 1}, "dev2.learning_rat is not a setting: did you mean learning_rate?"),
        ({"dev22.steps": 1}, "no node 'dev22': did you mean dev2?"),
        ({"dev2.steps": 0}, "dev2.steps = 0: must be greater"),
    ],
)
def test_a_wrong_change_is_one_sentence(changes, said):
    with pytest.raises(PresetError) as refused:
        load_pipeline("tiny", variant=Variant(changes))
    assert said in str(refused.value)


def test_a_run_with_a_change_has_names_of_its_own_and_reuses_the_rest(built, store, preset):
    variant = Variant({"dev2.learning_rate": 1e-5}, name="lower-lr")
    pipeline = load_pipeline(preset(), variant=variant)
    assert pipeline.name == f"{built.name}@lower-lr"
    rows = {row.node: row for row in plan(pipeline, store)}
    assert [rows[n].hit for n in ("problems", "base", "r1-zero", "cold-start", "dev1")] == [True] * 5
    assert not rows["dev2"].hit
    again = load_pipeline(preset(), variant=Variant({"reasoning_rl.learning_rate": 1e-5}))
    assert again.name == load_pipeline(preset(), variant=Variant({"dev2.learning_rate": 1e-5})).name
    assert again.name != load_pipeline(preset(), variant=Variant({"dev2.learning_rate": 2e-5})).name
    assert load_pipeline(preset(), variant=Variant(until="dev2")).name == built.name
    with pytest.raises(PresetError, match="name 'a/b': use up to 64"):
        load_pipeline(preset(), variant=Variant(name="a/b"))


@pytest.mark.parametrize("value", ["x" * 300, "../../etc", "a b", "\x1b[31m", None, [1, 2], {"a": 1}, "//"])
def test_every_difference_gives_a_name_that_the_store_takes(value):
    assert ref_name(f"tiny/r1-zero@{label({'steps': value})}")
    assert label({"steps": value}) != label({"steps": 3})


def test_a_stage_alone_takes_the_recipes_name_only_for_what_the_recipe_makes(built, store):
    own = named(built, store, "r1-zero")
    assert own.ref_name == built.ref_name("r1-zero")
    base = store.get_ref(built.ref_name("base"))
    assert named(built, store, "r1-zero", {"checkpoint": base.digest}).ref_name == own.ref_name
    steps = built.node("r1-zero").config.steps
    assert named(built, store, "r1-zero", config={"steps": steps, "micro_batch_tokens": 32}).ref_name == (
        own.ref_name
    )
    shorter = named(built, store, "r1-zero", config={"steps": 3})
    assert shorter.ref_name.startswith(f"{own.ref_name}@steps=3-")
    assert shorter.key != own.key
    elsewhere = named(built, store, "r1-zero", {"checkpoint": built.ref_name("dev1")})
    assert elsewhere.ref_name.startswith(f"{own.ref_name}@checkpoint=")
    assert named(built, store, "r1-zero", config={"steps": 3}, name="quick").ref_name == (
        f"{own.ref_name}@quick"
    )
    assert all(ref_name(build.ref_name) for build in (own, shorter, elsewhere))
    assert recipes_own(shorter.ref_name) == own.ref_name


def test_an_evaluation_of_something_else_does_not_take_the_name_of_the_recipes(built, store):
    r1 = store.get_ref(built.ref_name("r1"))
    assert named(built, store, "evaluation.r1", {"checkpoint": r1.digest}).ref_name == (
        built.ref_name("evaluation.r1")
    )
    other = named(built, store, "evaluation.r1", {"checkpoint": built.ref_name("dev1")})
    assert other.ref_name.startswith(built.ref_name("evaluation.r1@checkpoint="))


def test_inputs_are_found_by_key_whatever_they_are_called(built, store, tmp_path):
    """The base is a hit of another preset, and the new one has no names yet."""
    (tmp_path / "new").mkdir()
    path = tmp_path / "new" / "mine.yaml"
    shutil.copy(tmp_path / "quick.yaml", path)
    fresh = load_pipeline(str(path))
    assert fresh.name != built.name
    assert not [name for name in store.ref_names() if name.startswith(fresh.name)]
    build = named(fresh, store, "r1-zero", config={"steps": 3})
    assert build.inputs["checkpoint"] == store.get_ref(built.ref_name("base"))
    assert named(fresh, store, "evaluation.r1").inputs["checkpoint"] == store.get_ref(built.ref_name("r1"))


def test_an_input_that_is_not_made_is_named_with_the_command_that_makes_it(preset, store):
    with pytest.raises(PresetError, match=r"needs base, which is not made yet .*`r1 run --until base`"):
        named(load_pipeline(preset()), store, "r1-zero")


def test_final_rl_alone_can_do_without_reward_models(built, store):
    build = named(built, store, "r1", {"reward_models": "none"})
    assert "reward_models" not in build.inputs
    assert [term["name"] for term in build.config["rewards"]] == ["accuracy", "format", "language"]
    assert build.ref_name.startswith(built.ref_name("r1@"))
    with pytest.raises(PresetError, match="cannot do without checkpoint"):
        named(built, store, "r1", {"checkpoint": "none"})


def test_what_the_pipeline_asks_for_is_made_under_its_own_names_and_key(built, store, preset):
    """Whatever the run departs in: settings, a student of its own, inputs left out."""
    variant = Variant({"r1.steps": 9, "student": "smollm2-135m"}, skip=["reward-models"], name="x")
    pipeline = load_pipeline(preset(), variant=variant)
    for name in ("r1", "smollm2-135m-rl-only"):
        node = pipeline.nodes[name]
        inputs = {i: store.get_ref(built.ref_name(_like(f))).digest for i, f in pipeline.feeds[name].items()}
        asked = flow_parameters(node, preset(), pipeline.name, "smollm2-135m", inputs)
        given = {i: asked[i] for i in node.stage.inputs}
        scope, config = asked["name"].removesuffix("/"), asked["config"]
        build = stage_run.complete_build(store, scope, node.stage.name, name, given, config)
        refs = {i: store.resolve(digest) for i, digest in inputs.items()}
        assert build.key == key_of(node, refs)
        assert build.ref_name == f"{pipeline.name}/{name}"


def _like(node: str) -> str:
    return node.replace("smollm2-135m", "tiny-student")


def test_ls_says_which_is_which(built, store, preset, tmp_path, monkeypatch):
    variant = Variant({"dev2.learning_rate": 1e-5}, name="lower-lr", until="dev2")
    pipeline = load_pipeline(preset(), variant=variant)
    publisher = Publisher(pipeline, store, tmp_path / "more")
    pipeline.walk(publisher)
    lines = CliRunner().invoke(cli.app, ["ls"]).stdout.splitlines()
    rows = {line.split()[0]: line for line in lines[1:]}
    assert rows[pipeline.ref_name("dev1")].rstrip().endswith(f"is {built.ref_name('dev1')}")
    assert rows[pipeline.ref_name("dev2")].rstrip().endswith("learning_rate 1e-05")
    assert rows[built.ref_name("dev2")].rstrip().endswith("s")
    shown = CliRunner().invoke(cli.app, ["show", "dev2", "--preset", pipeline.name])
    assert shown.exit_code == 0
    assert CliRunner().invoke(cli.app, ["show", "dev2", "--preset", preset()]).exit_code == 0


def test_the_whole_recipe_has_no_departures():
    pipeline = load_pipeline("tiny")
    whole = wiring(pipeline.preset, pipeline.student_config, pipeline.student)
    assert (pipeline.feeds, pipeline.wired.departures) == (whole.feeds, ())


def test_runs_of_evaluations_say_which_checkpoint_they_evaluate():
    from flows.stage_flows import FLOWS

    pipeline = load_pipeline("tiny")
    node = pipeline.node("evaluation")
    asked = flow_parameters(node, "tiny", "tiny", "", {"problems": "b" * 64}, {"dev1": "a" * 64})
    assert FLOWS["evaluate"].flow_run_name.format(**asked) == "evaluate dev1 of tiny"
    assert asked["checkpoints"] == {"dev1": "a" * 64}
