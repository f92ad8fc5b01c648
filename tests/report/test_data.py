import pyarrow as pa

from tasks.problem import Problem
from tasks.report.data import majority_correct, question_means
from tasks.tables import SAMPLES
from tests.report.synthetic import samples


def vote(*answers: tuple[str | None, str]) -> float:
    return majority_correct([{"answer": answer, "verdict": verdict} for answer, verdict in answers])


def test_majority_vote():
    assert vote(("7", "correct"), ("7", "correct"), ("8", "wrong")) == 1.0
    assert vote(("8", "wrong"), ("8", "wrong"), ("7", "correct")) == 0.0
    assert vote(("8", "wrong"), ("7", "correct")) == 0.5
    assert vote((None, "unparseable"), (None, "unparseable"), ("7", "correct")) == 1.0
    assert vote((None, "unparseable")) == 0.0


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
    means = question_means(pa.Table.from_pylist(rows, schema=SAMPLES), {p.id: p for p in problems})
    assert means["math"] == means["verifiable"] == {"m": 0.25}
    assert means["vote_gain"] == {"m": -0.25}
    assert means["language"] == {"m": 0.5}
    assert means["helpfulness"] == {"g": 5.0}


def test_costs_add_up_and_evaluations_stand_together(loaded, report):
    assert sum(c.artifacts for c in loaded.costs) == len(report.inputs)
    evaluation = next(c for c in loaded.costs if c.node == "evaluation")
    assert evaluation.artifacts == 9
    assert abs(evaluation.seconds - 9 * 9.3) < 1e-9


def test_funnels_count_the_tables(loaded, report):
    funnel = next(f for f in loaded.funnels if f.node == "mixture")
    tables = report.inputs["dataset.mixture"]
    assert funnel.sampled == tables.table("samples").num_rows
    assert sum(funnel.rejected.values()) == tables.table("rejected").num_rows
    assert funnel.kept_total == tables.table("sft").num_rows


def test_examples_are_one_question_of_each_language_with_right_and_wrong(loaded):
    assert [e.problem.language for e in loaded.examples] == ["en", "zh"]
    for example in loaded.examples:
        verdicts = [(s.node, s.verdict == "correct") for s in example.samples]
        assert len(verdicts) == len(set(verdicts)) >= 9


def test_lineage_names_the_parents_the_manifests_have(loaded):
    parents = {node.name: set(node.parents) for node in loaded.nodes}
    assert parents["dev3"] == {"base", "mixture"}
    assert parents["r1"] == {"dev3", "reward-models"}
