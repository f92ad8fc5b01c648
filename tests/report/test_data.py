from dataclasses import replace

import pytest

from artifacts.tables import conform, read_table
from tasks.evaluate.scores import QuestionSet, question_scores
from tasks.problem import Problem
from tasks.report.claims import contrast
from tasks.report.data import _costs, question_means
from tasks.tables import SAMPLES
from tests.report.synthetic import no_pair_is_equal, samples


def test_question_means_by_measure():
    problems = [
        Problem("m", "math", "en", "Compute 3 + 4 .", "7", "exact"),
        Problem("g", "general", "en", "Greet.", "", "rubric", {"set": "helpfulness", "must": ["hello"]}),
        Problem("h", "general", "en", "Steal.", "", "rubric", {"set": "harmlessness", "refuse": True}),
    ]
    rows = samples("base", problems, 4)
    for row, verdict, answer in zip(rows, ["correct", "wrong", "wrong", "wrong"], "7888", strict=False):
        row.update(verdict=verdict, answer=answer, reward_language=0.5)
    for row in rows[4:8]:
        row["answer"] = "hello"
    sets = [QuestionSet(problems, 4)]
    means = question_means(question_scores(conform(rows, SAMPLES), sets, no_pair_is_equal))
    assert means["math/pass_at_1"] == means["verifiable/pass_at_1"] == {"m": 0.25}
    assert means["verifiable/vote_gain"] == {"m": -0.25}
    assert means["verifiable/language_consistency"] == {"m": 0.5}
    assert means["general/helpfulness"] == {"g": 5.0}


def test_the_claims_average_to_the_scores_of_the_table(report, loaded):
    """A claim about one checkpoint and its cell in the stage table are one number with one interval."""
    for row in loaded.rows:
        means = question_means(read_table(report.inputs[f"evaluation.{row.node}"].path / "question_scores"))
        for name in ("math/pass_at_1", "verifiable/cons_at_4", "verifiable/language_consistency"):
            score, claimed = row.scores[name], contrast([1], [means[name]])
            assert claimed.value == pytest.approx(score.value)
            assert claimed.count == score.questions
            assert claimed.low == pytest.approx(score.low, abs=0.05)
        gain = row.scores["verifiable/cons_at_4"].value - row.scores["verifiable/pass_at_1"].value
        assert contrast([1], [means["verifiable/vote_gain"]]).value == pytest.approx(gain)


def test_costs_add_up_and_evaluations_stand_together(loaded, report):
    assert sum(c.artifacts for c in loaded.costs) == len(report.inputs)
    evaluation = next(c for c in loaded.costs if c.node == "evaluation")
    assert evaluation.artifacts == 9
    assert abs(evaluation.seconds - 9 * 9.3) < 1e-9


def test_what_two_nodes_share_costs_once(loaded):
    """A student that is the base itself: one checkpoint under two names."""
    base = loaded.parts["base"]
    (cost,) = _costs([base, replace(base, name="student-base")])
    assert (cost.node, cost.artifacts, cost.seconds) == ("base", 1, base.manifest.seconds)


def test_funnels_count_the_tables(loaded, report):
    funnel = next(f for f in loaded.funnels if f.node == "mixture")
    tables = report.inputs["dataset.mixture"]
    assert funnel.sampled == tables.table("samples").num_rows
    assert sum(funnel.rejected.values()) == tables.table("rejected").num_rows
    assert funnel.kept_total == tables.table("sft").num_rows


def test_lineage_names_the_parents_the_manifests_have(loaded):
    parents = {node.name: set(node.parents) for node in loaded.nodes}
    assert parents["dev3"] == {"base", "mixture"}
    assert parents["r1"] == {"dev3", "reward-models", "problems"}


def test_a_student_that_is_the_base_feeds_the_students_only(loaded):
    base = loaded.parts["base"]
    student = next(name for name in loaded.parts if name.endswith("student-base"))
    shared = replace(loaded, parts=loaded.parts | {student: replace(base, name=student)})
    parents = {node.name: set(node.parents) for node in shared.nodes}
    assert "base" in parents["r1-zero"]
    assert not any(student in found for name, found in parents.items() if "student" not in name)
