"""Two runs of a real store beside each other."""

import shutil

import pytest
from typer.testing import CliRunner

from artifacts.errors import UnknownArtifact
from artifacts.manifest import ManifestDraft
from artifacts.store import ArtifactStore
from artifacts.tables import write_table
from flows import cli
from flows.comparing import compare_runs, find_run, runs
from tasks.kinds import Kind
from tasks.problem import Problem, to_table
from tasks.report.comparison_page import comparison_page
from tasks.tables import METRICS, PROBLEMS, QUESTION_SCORES, TABLES

QUESTIONS = 40


class Maker:
    """Publishes artifacts of made-up runs."""

    def __init__(self, folder):
        self.store = ArtifactStore.open(str(folder / "store"))
        self.folder, self.made = folder, 0

    def publish(self, name, kind, parents=None, config=None, versions=None, **tables):
        """The artifact `SCOPE/NODE`; tables are (rows, schema)."""
        draft = self.folder / f"draft-{self.made}"
        draft.mkdir()
        self.made += 1
        (draft / "note.txt").write_text(str(self.made))
        for table, (rows, schema) in tables.items():
            write_table(draft / f"{table}.parquet", rows, schema)
        node = name.partition("/")[2]
        fields = ManifestDraft(
            kind=kind, stage=node, stage_version=1, node=node, preset="tiny", key=f"{self.made:064x}",
            config=config or {}, parents=parents or {}, versions=versions or {"torch": "2.13.0"},
        )  # fmt: skip
        ref = self.store.publish(draft, fields, TABLES)
        self.store.set_ref(name, ref)
        return ref


def question_scores(right):
    """Of `QUESTIONS` math questions, of which the first `right` are answered."""
    return [
        {"problem_id": f"q{i}", "domain": "math", "level": 1 + i % 2, "language": "en", "source": "world",
         "metric": metric, "value": float(i < right)}
        for i in range(QUESTIONS) for metric in ("pass_at_1", "cons_at_4")
    ]  # fmt: skip


def curve(slope, names=("reward", "completion_length")):
    names = dict.fromkeys(names, slope)
    return [{"step": s, "name": name, "value": s * v} for s in range(30) for name, v in names.items()]


def problems(maker, name, prompt="What is {}?"):
    rows = [
        Problem(f"q{i}", "math", "en", prompt.format(i), str(i), "exact", split="held_out", level=1 + i % 2)
        for i in range(QUESTIONS)
    ]
    return maker.publish(name, Kind.problems, problems=(to_table(rows), PROBLEMS))


def write_run(maker, scope, asked, base, rate, right, seed=4, report=True, samples=4, versions=None):
    zero = maker.publish(
        f"{scope}/r1-zero", Kind.checkpoint, {"checkpoint": base, "problems": asked},
        {"learning_rate": rate, "rewards": [{"name": "accuracy"}], "sampling": {"top_p": 1.0}}, versions,
        metrics=(curve(rate * 1e5), METRICS),
        evaluation_metrics=(curve(0.01, ("pass_at_1", "length")), METRICS),
    )  # fmt: skip
    evaluation = maker.publish(
        f"{scope}/evaluation.r1-zero", Kind.evaluation, {"checkpoint": zero, "problems": asked},
        {"seed": seed, "samples_per_problem": samples},
        question_scores=(question_scores(right), QUESTION_SCORES),
    )  # fmt: skip
    if report:
        made_from = {"problems": asked, "checkpoint.base": base, "checkpoint.r1-zero": zero,
                     "evaluation.r1-zero": evaluation}  # fmt: skip
        maker.publish(f"{scope}/report", Kind.report, made_from)
    return evaluation


@pytest.fixture
def maker(tmp_path, monkeypatch):
    monkeypatch.setenv("R1_STORE", str(tmp_path / "store"))
    return Maker(tmp_path)


@pytest.fixture
def two_runs(maker):
    asked, base = problems(maker, "tiny/problems"), maker.publish("tiny/base", Kind.checkpoint)
    write_run(maker, "tiny", asked, base, 1e-5, right=10)
    write_run(maker, "tiny@fast", asked, base, 4e-5, right=30, versions={"torch": "2.14.0"})
    return maker


def test_what_differs_between_two_runs(two_runs):
    found = compare_runs(two_runs.store, "tiny", "tiny@fast")
    assert (found.one, found.other) == ("tiny", "tiny@fast")
    assert found.same == ["problems", "base"]
    assert [(line.node, line.setting, line.one, line.other) for line in found.settings] == [
        ("r1-zero", "learning_rate", "1e-05", "4e-05"),
        ("all", "torch", "2.13.0", "2.13.0, 2.14.0"),
    ]
    assert (found.only, found.warnings) == ([], [])
    scores = {score.head: score for score in found.scores}
    assert list(scores) == ["Math", "All", "cons@4", "Level 1", "Level 2"]
    math = scores["Math"]
    assert (math.one, math.other, math.difference.value, math.difference.questions) == (0.25, 0.75, 0.5, 40)
    assert 0.3 < math.difference.low < 0.5 < math.difference.high < 0.7
    assert math.difference.p_value < 0.001
    assert scores["Level 1"].difference.questions == 20
    assert list(found.curves) == list(found.evaluation_curves) == ["r1-zero"]
    slow, fast = found.curves["r1-zero"]
    assert fast["reward"][-1][1] == 4 * slow["reward"][-1][1]


def test_the_other_way_round_the_difference_changes_its_sign(two_runs):
    first, second = (
        compare_runs(two_runs.store, "tiny", "tiny@fast"),
        compare_runs(two_runs.store, "tiny@fast", "tiny"),
    )
    for one, other in zip(first.scores, second.scores, strict=True):
        assert one.difference.value == -other.difference.value
        assert one.difference.p_value == other.difference.p_value


def test_a_run_beside_itself_has_no_difference(two_runs):
    found = compare_runs(two_runs.store, "tiny", "tiny/report")
    assert len(found.same) == 4
    assert [*found.settings, *found.scores, *found.curves, *found.only, *found.warnings] == []


def test_other_protocols_are_named(two_runs):
    asked, base = (two_runs.store.resolve(f"tiny/{node}") for node in ("problems", "base"))
    write_run(two_runs, "tiny@other", asked, base, 1e-5, 20, seed=5, samples=8)
    found = compare_runs(two_runs.store, "tiny", "tiny@other")
    [warning] = found.warnings
    assert warning.startswith("R1-Zero: the two runs were evaluated under different protocols")
    assert "seed: 4 against 5" in warning
    assert "samples a question: 4 against 8" in warning
    assert ("evaluation", "seed", "4", "5") in [(s.node, s.setting, s.one, s.other) for s in found.settings]


def test_an_id_that_stands_for_another_question_is_not_compared(two_runs):
    base = two_runs.store.resolve("tiny/base")
    write_run(two_runs, "tiny@others", problems(two_runs, "tiny@others/problems", "And {}?"), base, 1e-5, 20)
    found = compare_runs(two_runs.store, "tiny", "tiny@others")
    assert found.scores == []
    assert "problems artifact" in found.warnings[0]


def test_runs_are_found_by_every_name_that_a_user_has(two_runs, tmp_path):
    store = two_runs.store
    whole = find_run(store, "tiny").artifacts
    assert set(whole) == {"problems", "base", "r1-zero", "evaluation.r1-zero"}
    report = store.resolve("tiny/report")
    folder = shutil.copytree(store.fetch(report), tmp_path / "copied")
    for text in ("tiny/report", report.digest, report.digest[:10], str(folder), "configs/tiny.yaml"):
        assert find_run(store, text).artifacts == whole
    evaluation = find_run(store, "tiny@fast/evaluation.r1-zero").artifacts
    assert evaluation == find_run(store, "tiny@fast").artifacts
    assert runs(store) == ["tiny", "tiny@fast"]


def test_a_run_without_a_report_is_what_has_its_name(two_runs):
    asked, base = (two_runs.store.resolve(f"tiny/{node}") for node in ("problems", "base"))
    write_run(two_runs, "tiny@early", asked, base, 1e-5, 20, report=False)
    two_runs.store.set_ref("tiny@early/r1-zero@alone", two_runs.store.resolve("tiny/r1-zero"))
    found = find_run(two_runs.store, "tiny@early").artifacts
    assert set(found) == {"problems", "base", "r1-zero", "evaluation.r1-zero"}
    assert found["r1-zero"].ref == two_runs.store.resolve("tiny@early/r1-zero")


def test_nodes_of_one_run_alone_are_named(two_runs):
    found = compare_runs(two_runs.store, "tiny", "tiny@fast/r1-zero")
    assert found.only == ["only tiny has evaluation.r1-zero"]
    assert found.scores == []


@pytest.mark.parametrize("text", ["tinny", "nowhere/report", "abcdef0123", "", "../x"])
def test_an_unknown_run_is_refused_with_those_that_there_are(two_runs, text):
    with pytest.raises(UnknownArtifact):
        find_run(two_runs.store, text)
    done = CliRunner().invoke(cli.app, ["compare", "tiny", text])
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "r1 ls" in done.stderr


def test_the_command_prints_and_writes_the_page(two_runs, tmp_path):
    page = tmp_path / "compared.html"
    done = CliRunner().invoke(cli.app, ["compare", "tiny", "tiny@fast", "--html", str(page)])
    assert done.exit_code == 0, done.output
    line = next(line for line in done.stdout.splitlines() if "Math" in line)
    assert line.split()[:6] == ["R1-Zero", "Math", "25.0", "75.0", "*", "+50.0"]
    assert "learning_rate" in done.stdout
    html = page.read_text()
    assert html.count("<svg") == 3
    assert "Evaluation of R1-Zero during training in both runs" in html
    assert "<td>1e-05" not in html  # the cells say which run they are of, for a narrow screen
    assert '<td data-head="tiny">1e-05</td><td data-head="tiny@fast">4e-05</td>' in html
    assert "script-src &#39;none&#39;" in html


def test_names_of_strangers_are_text_on_the_page_and_in_the_terminal(two_runs):
    asked, base = (two_runs.store.resolve(f"tiny/{node}") for node in ("problems", "base"))
    text = "<script>alert(1)</script>\x1b[2J\u202e"
    maker = two_runs
    maker.publish("tiny/mine", Kind.checkpoint, {"checkpoint": base, "problems": asked}, {text: text})
    maker.publish("tiny@fast/mine", Kind.checkpoint, {"checkpoint": base, "problems": asked}, {text: "b"})
    found = compare_runs(maker.store, "tiny/mine", "tiny@fast/mine")
    assert len(found.settings) == 1
    page = comparison_page(found)
    assert "<script" not in page
    assert not {"\x1b", "\u202e"} & set(page)
    done = CliRunner().invoke(cli.app, ["compare", "tiny/mine", "tiny@fast/mine"])
    assert not {"\x1b", "\u202e"} & set(done.output)
