"""What CONTRIBUTING.md promises: to add a thing touches the files of its table and nothing else.

Each test copies the source tree, adds the files that the table names, and uses the addition from a fresh
process.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.settings import REPOSITORY

TERM = """
from typing import Literal

from tasks.rewards.term import Scoring, Term


class Brief(Term):
    name: Literal["brief"] = "brief"
    limit: int = 3

    def value(self, scoring: Scoring) -> float:
        return float(scoring.tokens <= self.limit)
"""

VERIFIER = """
from tasks.rewards.verdict import Judgement, Verdict


def judge(problem, completion):
    right = completion.endswith(problem.answer)
    return Judgement(Verdict.correct if right else Verdict.wrong, completion)
"""

SOURCE = """
from typing import Literal

from tasks.problem import Problem
from tasks.problems.source import Drawn, Source


class Backwards(Source):
    name: Literal["backwards"] = "backwards"
    count: int = 4

    def draw(self, seed: int) -> Drawn:
        return Drawn([Problem(f"b{i}", "math", "en", f"say {i}", str(i), "suffix",
                              split="held_out" if i % 2 else "train") for i in range(self.count)], [])
"""

FILTER = '''

@readability_filter("shouting")
def shouting(thinking: str, language: str, *, most: Positive = 1) -> str | None:
    """More than `most` exclamation marks."""
    return f"{thinking.count('!')} marks" if thinking.count("!") > most else None
'''

STAGE = '''
"""Counts the problems."""

from tasks.kinds import Kind
from tasks.settings import Positive, Settings
from tasks.stage import Stage


class CensusConfig(Settings):
    times: Positive = 1


CENSUS = Stage(
    "census", 1, "Census", "Counts the problems.", "cpu", CensusConfig, {"problems": Kind.problems},
    Kind.dataset, "tasks.census.count:run", nodes={"census": "Census"},
)
'''

COUNT = """
def run(config, job):
    rows = job.inputs["problems"].table("problems").num_rows
    (job.draft / "count.txt").write_text(str(rows * config.times))
    job.summary(rows=rows)
"""

LINE = '    base = r1.make("base", BASE, preset.base)\n'


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of the source tree without tests. The weights (6 MB) are in it: a preset checks its base."""
    for name in ("artifacts", "configs", "flows", "tasks"):
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=left_out)
    return tmp_path


def add(tree: Path, file: str, text: str, after: str = "") -> None:
    """Create a file, or put `text` into one: behind `after`, or at its end."""
    path = tree / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(text)
        return
    before = path.read_text()
    assert not after or after in before
    path.write_text(before.replace(after, after + text, 1) if after else before + text)


def run(tree: Path, program: str) -> dict:
    """What the program prints, run from the copy."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tree, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_reward_term_is_one_file(tree):
    add(tree, "tasks/rewards/terms/brief.py", TERM)
    said = run(tree, """
import json
from tasks.problem import Problem
from tasks.rewards.score import RewardFunction, scored_columns
from tasks.rl.stage import RLConfig
from tasks.tables import SAMPLES

class Verifier:
    def verify(self, problems, completions):
        return [None] * len(problems)

config = RLConfig.model_validate({"rewards": [{"name": "brief", "limit": 5, "weight": 0.5}]})
asked = [Problem("p", "math", "en", "?", "1", "math")] * 2
scored = RewardFunction(config.rewards, Verifier()).score(asked, ["a", "b"], [5, 6], 9)
columns = scored_columns(scored, config.rewards)
print(json.dumps([[s.total for s in scored], columns["reward_brief"], "reward_brief" in SAMPLES.names]))
""")  # fmt: skip
    assert said == [[0.5, 0.0], [1.0, 0.0], True]


def test_a_source_and_a_verifier_are_a_file_each(tree):
    add(tree, "tasks/problems/sources/backwards.py", SOURCE)
    add(tree, "tasks/rewards/verifiers/suffix.py", VERIFIER)
    said = run(tree, """
import json
from tasks.problems.draw import draw
from tasks.problems.stage import ProblemsConfig
from tasks.rewards.pool import VerifierPool

config = ProblemsConfig.model_validate({"sources": [{"name": "backwards", "count": 3}]})
problems = draw(config).problems
with VerifierPool() as pool:
    verdicts = [j.verdict for j in pool.verify(problems, ["it is 0", "it is 0", "it is 2"])]
print(json.dumps([[p.prompt for p in problems], verdicts]))
""")  # fmt: skip
    assert said == [["say 0", "say 1", "say 2"], ["correct", "wrong", "correct"]]


def test_a_benchmark_is_a_file(tree):
    add(
        tree, "tasks/benchmarks/short.yaml", 'map: gsm8k\nsamples: 3\nprompt: "{question} Answer in a box."\n'
    )
    add(tree, "tests/mine.jsonl", '{"question": "7 - 4 = ?", "answer": "#### 3"}\n')
    said = run(tree, """
import json
from tasks.evaluate.evaluate import question_sets
from tasks.evaluate.stage import EvaluateConfig
from tasks.problems.draw import draw
from tasks.problems.stage import ProblemsConfig

config = EvaluateConfig.model_validate({"benchmarks": {"short": {"path": "tests/mine.jsonl"}}})
sources = [benchmark.source(name) for name, benchmark in config.benchmarks.items()]
problems = draw(ProblemsConfig.model_validate({"sources": sources})).problems
(asked,) = question_sets(problems, config)
print(json.dumps([[p.prompt, p.answer, p.source, asked.samples] for p in asked.problems]))
""")  # fmt: skip
    assert said == [["7 - 4 = ? Answer in a box.", "3", "short", 3]]


def test_a_readability_filter_is_one_function(tree):
    add(tree, "tasks/curation/readability.py", FILTER, after="if share < min_share else None\n")
    said = run(tree, """
import json
from tasks.cold_start.stage import ColdStartConfig
from tasks.curation.readability import FILTERS, unreadable

limits = ColdStartConfig.model_validate({"readability": {"shouting": {"most": 2}}}).readability
print(json.dumps(["shouting" in FILTERS, unreadable("shouting", "no! no! no!", "en", limits)]))
""")  # fmt: skip
    assert said == [True, "3 marks"]


@pytest.mark.slow
def test_a_stage_is_its_folder_a_line_of_the_recipe_and_its_section(tree):
    add(tree, "tasks/census/__init__.py", "")
    add(tree, "tasks/census/stage.py", STAGE)
    add(tree, "tasks/census/count.py", COUNT)
    add(
        tree,
        "tasks/recipe.py",
        "from tasks.census.stage import CENSUS\n",
        after="from tasks.base.stage import BASE\n",
    )
    add(
        tree,
        "tasks/recipe.py",
        '    r1.make("census", CENSUS, preset.census, problems=problems)\n',
        after=LINE,
    )
    add(tree, "configs/tiny.yaml", "census: {times: 2}\n")
    said = run(tree, """
import json
from flows.deployments import prefect_yaml
from flows.graph import load_pipeline
from flows.stage_flows import FLOWS
from tasks.recipe import title

pipeline = load_pipeline("tiny")
flow = FLOWS["census"]
print(json.dumps([
    pipeline.feeds["census"], title("census"), flow.description, list(flow.parameters.properties),
    pipeline.nodes["census"].config.times, "dataset.census" in pipeline.feeds["report"],
    "name: census," in prefect_yaml(),
]))
""")  # fmt: skip
    assert said == [
        {"problems": "problems"}, "Census", "Counts the problems.",
        ["preset", "node", "problems", "config", "name"], 2, True, True,
    ]  # fmt: skip
