"""The mixture shard by shard: judge and writer behind a server, general files, lost and repeated runs."""

import json
import re

import pytest

from artifacts.tables import read_table, write_table
from tasks import judged_samples
from tasks.kinds import Kind
from tasks.language_models.chat import ModelLost
from tasks.problem import Problem, to_table
from tasks.rejection_sampling import mixture
from tasks.rejection_sampling.general import General
from tasks.rejection_sampling.stage import GeneralFile, RejectionSamplingConfig
from tasks.rendering import parse_completion
from tasks.rollout import sampling
from tasks.rollout.settings import Sampling
from tasks.tables import PROBLEMS
from tests.curation.test_stages import funnel_adds_up
from tests.jobs import local_job
from tests.language_models.servers import questions, scripted
from tests.rollout.test_sampling import Scripted

SUMS = [Problem(f"m{i:02d}", "math", "en", f"compute {i} + 1", str(i + 1), "math") for i in range(12)]
FREE = [Problem(f"f{i:02d}", "stem", "en", f"ask who {i}", "tom", "judge") for i in range(12)]
HELD_OUT = Problem("h", "math", "en", "Is this  held out?", "1", "math", split="held_out")
TALK = Problem(
    "g0", "general", "en", "hello", "hello tom", "rubric", {"set": "helpfulness", "thinking": "ok"}
)


def writes(prompt, seed):
    """A sampler that is right three times of four, in thinking that differs from sample to sample."""
    number = int(re.findall(r"\d+", prompt)[-1 if "ask" in prompt else 0])
    answer = "tom" if "ask" in prompt else str(number + 1)
    said = answer if seed % 4 else "wait"
    return f" <think> first so {seed % 7} then check {number} </think> <answer> {said} </answer>"


@pytest.fixture
def stage(tmp_path, monkeypatch, tiny_model):
    """Runs the stage on problems, in shards of 20 completions; `engine` counts what is sampled."""
    monkeypatch.setattr(sampling, "SHARD_COMPLETIONS", 20)
    engine = Scripted(writes)
    monkeypatch.setattr(judged_samples, "kept_sampler", lambda *how: engine)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model").symlink_to(tiny_model)

    def run(problems, name="mixture", **settings):
        folder = tmp_path / f"problems-{len(problems)}"
        folder.mkdir(exist_ok=True)
        write_table(folder / "problems.parquet", to_table(problems), PROBLEMS)
        job = local_job(
            tmp_path, name, "rejection-sampling",
            {"checkpoint": (Kind.checkpoint, tmp_path / "checkpoint"), "problems": (Kind.problems, folder)},
        )  # fmt: skip
        given = {"template": "plain", "samples_per_problem": 4, "general_share": 0, "sampling": Sampling()}
        mixture.run(RejectionSamplingConfig.model_validate(given | settings), job)
        return job

    run.engine = engine
    return run


def verdicts(body):
    right = "<answer_to_grade>\ntom" in questions(body)[1]
    return json.dumps({"analysis": "compared", "correctness": "correct" if right else "incorrect"})


def endpoint(server, **more):
    return {"name": "endpoint", "url": server.url, "model": "judge", "attempts": 1, "concurrency": 1} | more


def test_the_judge_grades_what_rules_cannot(stage):
    with scripted(text=verdicts) as server:
        job = stage([*SUMS, *FREE], judge=endpoint(server))
    samples, sft = (read_table(job.draft / name) for name in ("samples", "sft"))
    graded = dict(zip(samples["problem_id"].to_pylist(), samples["verdict"].to_pylist(), strict=True))
    assert {graded[p.id] for p in FREE} <= {"correct", "wrong"}
    assert set(sft["domain"].to_pylist()) == {"math", "stem"}
    assert {parse_completion(c).answer for c in sft.filter(
        [d == "stem" for d in sft["domain"].to_pylist()]
    )["completion"].to_pylist()} == {"tom"}  # fmt: skip
    assert job.headline["judge_requests"] == 48
    assert job.headline["judge_from_cache"] + len(server.seen) <= 48
    assert len(read_table(job.draft / "rejected")) + sft.num_rows == 96
    funnel_adds_up(job)


def test_without_a_judge_such_questions_are_not_sampled(stage):
    job = stage([*SUMS, *FREE])
    assert set(read_table(job.draft / "samples")["problem_id"].to_pylist()) == {p.id for p in SUMS}


@pytest.mark.slow
def test_a_lost_judge_costs_one_shard_and_the_result_is_the_same(stage, monkeypatch):
    monkeypatch.setattr("tasks.language_models.chat._GIVE_UP", 3)
    with scripted(text=verdicts) as server:
        whole = stage([*SUMS, *FREE], judge=endpoint(server))
    with scripted(*["pass"] * 6, *[500] * 900, text=verdicts) as server:
        server.url = server.url.replace(
            "127.0.0.1", "localhost"
        )  # another judge: nothing of the first is known
        with pytest.raises(ModelLost):
            stage([*SUMS, *FREE], "lost", judge=endpoint(server))
        job = local_job(whole.folder.parents[1], "lost", "rejection-sampling", {})
        finished = {p: p.stat().st_mtime_ns for p in (job.state / "curated").glob("0*/*")}
        assert finished
        server.replies.clear()
        asked, sampled = len(server.seen), stage.engine.asked
        again = stage([*SUMS, *FREE], "lost", judge=endpoint(server))
    assert stage.engine.asked == sampled
    assert len(server.seen) > asked
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert again.headline["judge_requests"] == whole.headline["judge_requests"] == 48
    for name in ("sft", "samples", "rejected", "funnel"):
        assert (again.draft / f"{name}.parquet").read_bytes() == (
            whole.draft / f"{name}.parquet"
        ).read_bytes()


def test_added_problems_are_the_only_ones_sampled(stage):
    stage(SUMS[::2])
    asked = stage.engine.asked
    job = stage(SUMS, "more")
    assert stage.engine.asked - asked == 4 * len(SUMS[1::2])
    assert read_table(job.draft / "samples").num_rows == 48


def test_caps_leave_rows_out_with_their_reason(stage):
    job = stage(SUMS, most_per_domain={"math": 10})
    assert job.headline["samples_math"] == 10 == read_table(job.draft / "sft").num_rows
    rejected = read_table(job.draft / "rejected").to_pylist()
    assert sum(row["reason"] == "domain-cap" for row in rejected) == job.headline["rejected_domain-cap"] > 0
    assert len(rejected) + 10 == 48


def write_files(folder):
    rows = [
        {"prompt": "tell a story", "completion": "<think> a plan </think> once there was tom"},
        {"prompt": "hello!", "completion": "hello tom"},
        {"prompt": "is this held OUT?", "completion": "1"},
        {"prompt": "", "completion": "x"},
        {"prompt": "q", "completion": " "},
        {"messages": [{"role": "assistant", "content": "no question"}]},
        {"messages": [
            {"role": "system", "content": "be kind"}, {"role": "user", "content": "who ?"},
            {"role": "assistant", "content": "tom"}, {"role": "user", "content": "sure ?"},
            {"role": "assistant", "content": "<think> check </think><answer> sure </answer>"},
        ]},
        {"prompt": "q", "completion": "a <think> b"},
    ]  # fmt: skip
    lines = [*map(json.dumps, rows), "not json", "[1]"]
    (folder / "talk.jsonl").write_text("\n".join(lines), encoding="utf-8")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"prompt": ["fix the bug"] * 3, "completion": ["def f ( x ) : return x"] * 3}),
        folder / "code.parquet",
    )


def test_general_files_join_the_mixture_with_their_thinking(stage, tmp_path):
    write_files(tmp_path)
    files = [
        {"path": str(tmp_path / "talk.jsonl")},
        {"path": str(tmp_path / "code.parquet"), "domain": "software-engineering", "thinking": "generated"},
        {"path": str(tmp_path / "talk.jsonl"), "thinking": "none"},
    ]

    def thinks(body):
        return "<think> x </think><thinking_text>I look at f.</thinking_text>"

    with scripted(text=thinks) as server:
        job = stage(
            [*SUMS, TALK, HELD_OUT], general=files, general_share=0.5, writer=endpoint(server, model="writer")
        )
    assert "fix the bug" in questions(server.seen[0])[1]
    sft = read_table(job.draft / "sft").to_pylist()
    general = [row for row in sft if row["domain"] != "math"]
    texts = [row["completion"] for row in general]
    assert texts[0] == " <think> ok </think> <answer> hello tom </answer>"
    assert texts[1] == " <think> a plan </think> <answer> once there was tom </answer>"
    assert texts[2] == " <think> </think> <answer> hello tom </answer>"
    rounds = general[3]
    assert rounds["prompt"] == ("User: be kind\n\nwho ? Assistant: tom<|end|>User: sure ? Assistant:")
    assert rounds["completion"] == " <think> check </think> <answer> sure </answer>"
    assert rounds["question"] is None
    assert texts[4:7] == [" <think> I look at f. </think> <answer> def f ( x ) : return x </answer>"] * 3
    assert texts[7] == " <think> </think> <answer> once there was tom </answer>"
    assert job.headline["samples_software-engineering"] == 3
    assert job.headline["mean_rounds_general"] == 1.29
    assert job.headline["writer_requests"] == 3
    steps = {(row["step"], row["outcome"]): row["rows"] for row in funnel_adds_up(job)}
    dropped = {"held-out-question": 2, "empty-row": 4, "unreadable-row": 6, "malformed": 2}
    assert {reason: steps["general data", reason] for reason in dropped} == dropped


def test_a_writer_that_fails_leaves_the_row_out(stage, tmp_path):
    write_files(tmp_path)
    file = {"path": str(tmp_path / "code.parquet"), "domain": "software-engineering", "thinking": "generated"}
    with scripted(text="no layout") as server:
        job = stage(SUMS, general=[file], general_share=0.1, writer=endpoint(server))
    steps = {(row["step"], row["outcome"]): row["rows"] for row in funnel_adds_up(job)}
    assert steps["general data", "writer-unreadable"] == 3
    assert steps["general data", "kept"] == job.headline["general"] == 0


def test_the_draw_depends_on_the_seed_alone(tmp_path):
    lines = [json.dumps({"prompt": f"q {i}", "completion": f"a {i}"}) for i in range(40)]
    (tmp_path / "talk.jsonl").write_text("\n".join(lines))

    def drawn(seed):
        general = General((GeneralFile(path=str(tmp_path / "talk.jsonl")),), seed, frozenset())
        offered = mixture.general_offered(
            [], general, RejectionSamplingConfig(seed=seed, general=general.files)
        )
        return [row.request for row in mixture.drawn(offered, general, 10)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 10


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"general": [{"path": "x.jsonl", "thinking": "generated"}]}, "set writer to a language model"),
        ({"judge": "rubric"}, "judge 'rubric' is not known"),
        ({"general": [{"path": "x.jsonl", "domain": "Bad Name"}]}, "pattern"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        RejectionSamplingConfig.model_validate(settings)


def test_a_missing_file_is_told(stage):
    with pytest.raises(ValueError, match=r"path 'nowhere\.jsonl' does not exist"):
        stage(SUMS, general=[{"path": "nowhere.jsonl"}], general_share=0.5)
    assert stage.engine.asked == 0
