"""Sampling in shards: kill and resume, stop, stale shards; verdicts in the table."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from tasks import judged_samples
from tasks.job import StopRequested
from tasks.kinds import Kind
from tasks.problem import Problem
from tasks.rendering import render_prompt
from tasks.rewards.pool import VerifierPool
from tasks.rollout import sampling as subject
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.text import Written, open_sampler
from tests.jobs import local_job

PROBLEMS = [Problem(f"m{i:03d}", "math", "en", f"compute {i} + 1", str(i + 1), "math") for i in range(40)]
SHORT = Sampling(max_new_tokens=16)


class Scripted:
    """A sampler that says what its script says for a prompt."""

    name, in_flight = "scripted 1", 50

    def __init__(self, script):
        self.script, self.asked, self.calls = script, 0, 0

    prompt = staticmethod(render_prompt)

    def stream(self, prompts, sampling, seeds):
        self.asked, self.calls = self.asked + len(prompts), self.calls + 1
        for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            yield row, Written(self.script(prompt, seed), "stop", 4, 9)

    def close(self):
        pass


def _sample(job, engine, seed=1, problems=PROBLEMS):
    return subject.sample_problems(engine, problems, "plain", SHORT, 4, seed, "0" * 64, job)


def _job(tmp_path):
    return local_job(tmp_path, "base", "evaluate", {})


def test_rows_are_in_order_and_seeds_belong_to_the_sample(tmp_path, tiny_model):
    engine = open_sampler(EngineSettings(), tiny_model)
    table = _sample(_job(tmp_path), engine)
    assert table["problem_id"].to_pylist() == [p.id for p in PROBLEMS for _ in range(4)]
    assert table["sample_index"].to_pylist() == [0, 1, 2, 3] * 40
    assert table["seed"][5].as_py() == subject.sample_seed(1, "m001", 1)
    assert len(set(table["seed"].to_pylist())) == 160
    some = _sample(_job(tmp_path / "some"), engine, problems=PROBLEMS[3:5])
    assert some["completion"].to_pylist() == table["completion"].to_pylist()[12:20]


def test_finished_shards_are_reused_and_stale_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "SHARD_COMPLETIONS", 50)
    job, engine = _job(tmp_path), Scripted(lambda prompt, seed: f"{prompt} {seed}")
    whole = _sample(job, engine)
    shards = sorted((job.state / "shards").rglob("*.parquet"))
    assert [len(shards), engine.asked] == [4, 160]
    shards[1].unlink()
    assert _sample(job, engine).equals(whole)
    assert engine.asked == 210
    assert not _sample(job, engine, seed=2).equals(whole)
    assert engine.asked == 370
    assert len(list((job.state / "shards").iterdir())) == 1


def test_added_problems_and_samples_are_all_that_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "SHARD_COMPLETIONS", 50)
    engine = Scripted(lambda prompt, seed: f"{prompt} {seed}")

    def sample(name, problems, samples=4):
        job = local_job(tmp_path, name, "rejection-sampling", {})
        asked = engine.asked
        shards = subject.sample_shards(
            engine, problems, "plain", SHORT, samples, 1, "0" * 64, job, job.work_root / "shards"
        )
        chunks = list(shards.chunks())
        assert all(chunk.num_rows <= 50 for chunk in chunks)
        assert len({i for c in chunks for i in set(c["problem_id"].to_pylist())}) == len(problems)
        return pa.concat_tables(chunks), engine.asked - asked

    every_second, asked = sample("one", PROBLEMS[::2])
    assert asked == 80
    whole, asked = sample("two", PROBLEMS)
    assert asked == 80
    assert whole.equals(_sample(_job(tmp_path / "alone"), engine))
    more, asked = sample("three", PROBLEMS, samples=6)
    assert (asked, more.num_rows) == (80, 240)
    assert sample("four", PROBLEMS[::2])[0].equals(every_second)
    assert engine.asked == 80 + 80 + 160 + 80


def test_stop_keeps_the_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "SHARD_COMPLETIONS", 50)
    job = _job(tmp_path)
    engine = Scripted(lambda prompt, seed: job.stop.set() if engine.asked == 100 else "x")
    with pytest.raises(StopRequested, match="1 of 1 shards in flight"):
        _sample(job, engine)
    job.stop.clear()
    again = Scripted(lambda prompt, seed: "x")
    assert _sample(job, again).num_rows == 160
    assert again.asked == 110


def test_shards_are_in_flight_together(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "SHARD_COMPLETIONS", 50)
    engine = Scripted(lambda prompt, seed: f"{prompt} {seed}")
    one_by_one = _sample(_job(tmp_path), engine)
    engine.in_flight, engine.calls = 100, 0
    together = _sample(_job(tmp_path / "other"), engine)
    assert together.equals(one_by_one)
    assert engine.calls == 2


KILLED = """
import sys
from pathlib import Path
from tasks.rollout.settings import EngineSettings
from tasks.rollout import sampling
from tasks.rollout.text import open_sampler
from tests.rollout.test_sampling import _job, _sample
sampling.SHARD_COMPLETIONS = 20
sampler = open_sampler(EngineSettings(), Path(sys.argv[2]))
sampler.in_flight = 20
_sample(_job(Path(sys.argv[1])), sampler)
"""


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_table(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(subject, "SHARD_COMPLETIONS", 20)
    root = Path(__file__).parents[2]
    job = _job(tmp_path / "killed")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(tiny_model)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    deadline = time.monotonic() + 240
    while not (found := list(job.state.rglob("*.parquet"))) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert found
    stamps = {p: p.stat().st_mtime_ns for p in job.state.rglob("*.parquet")}
    engine = open_sampler(EngineSettings(), tiny_model)
    resumed = _sample(job, engine)
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    assert resumed.equals(_sample(_job(tmp_path / "whole"), engine))


def test_judge_fills_the_columns(tmp_path):
    problems = [
        *PROBLEMS[:3],
        Problem("g1", "general", "en", "say hello", "", "rubric", {"set": "helpfulness"}),
    ]
    script = {
        "compute 0 + 1": " <think> 0 + 1 = 1 </think> <answer> 1 </answer>",
        "compute 1 + 1": " <think> 所以 wait </think> <answer> 3 </answer>",
        "compute 2 + 1": " no idea",
        "say hello": " <think> ok </think> <answer> hello </answer>",
    }
    engine = Scripted(lambda prompt, seed: next(v for k, v in script.items() if k in prompt))
    table = subject.sample_problems(engine, problems, "plain", SHORT, 1, 0, "0" * 64, _job(tmp_path))
    with VerifierPool() as pool:
        judged = judged_samples.judge(table, problems, pool)
    assert judged["verdict"].to_pylist() == ["correct", "wrong", "unparseable", None]
    assert judged["answer"].to_pylist() == ["1", "3", None, "hello"]
    assert judged["thinking"].to_pylist() == ["0 + 1 = 1", "所以 wait", None, "ok"]
    assert judged["reward_accuracy"].to_pylist() == [1, 0, 0, None]
    assert judged["reward_format"].to_pylist() == [1, 1, 0, 1]
    assert judged["reward_language"].to_pylist() == [1, 0.5, 0, 1]
    assert judged_samples.verdict_counts(judged) == {"correct": 1, "wrong": 1, "unparseable": 1}


def test_no_problems_is_an_empty_table(tmp_path):
    assert _sample(_job(tmp_path), Scripted(str), problems=[]).num_rows == 0


def test_a_checkpoint_is_sampled_and_judged(tmp_path, tiny_model):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model").symlink_to(tiny_model)
    job = local_job(tmp_path, "base", "evaluate", {"checkpoint": (Kind.checkpoint, tmp_path / "in")})
    with VerifierPool() as pool:
        (table,) = judged_samples.judged_samples(
            job.inputs["checkpoint"], PROBLEMS[:4], "r1", SHORT, 2, 0, EngineSettings(), job, pool
        )
    assert table.num_rows == 8
    assert set(table["checkpoint"].to_pylist()) == {job.inputs["checkpoint"].ref.digest}
    assert None not in table["verdict"].to_pylist()


def test_shards_are_verified_while_others_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "SHARD_COMPLETIONS", 2)
    problems, begun = PROBLEMS[:4], []

    class Watched(VerifierPool):
        def verify(self, asked, completions):
            begun.append([p.id for p in asked])
            return super().verify(asked, completions)

    engine = Scripted(lambda prompt, seed: " <think> a </think> <answer> 1 </answer>")
    with Watched(workers=1) as pool, judged_samples.verified_ahead(problems, pool) as finished:
        job = _job(tmp_path)
        shards = subject.sample_shards(
            engine, problems, "plain", SHORT, 1, 0, "0" * 64, job, job.state / "shards", finished
        )
    ids = [p.id for p in problems]
    assert len(shards) == 4
    assert begun == [ids[:2], ids[2:]]


def test_not_more_is_verified_ahead_than_the_pool_remembers(monkeypatch):
    monkeypatch.setattr(judged_samples, "_AHEAD", 3)
    seen = []

    class Pool:
        def warm(self, problems):
            pass

        def verify(self, asked, completions):
            seen.extend(completions)

    with judged_samples.verified_ahead(PROBLEMS[:1], Pool()) as finished:
        for n in range(4):
            finished([PROBLEMS[0].id] * 2, [f"{n}a", f"{n}b"])
    assert seen == ["0a", "0b", "1a", "1b"]
