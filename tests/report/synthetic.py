"""A made-up run in real tables and real manifests, for looking at the report and for its tests.

python -m tests.report.synthetic FOLDER [QUESTIONS [SAMPLES [STEPS]]]
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from artifacts.manifest import ManifestDraft, seal
from artifacts.refs import Ref
from artifacts.tables import conform, write_table
from tasks.evaluate.scores import QuestionSet, question_scores, scores
from tasks.evaluate.voting import Pair
from tasks.funnel import Funnel
from tasks.job import Input, Job
from tasks.kinds import Kind
from tasks.presets import load_student, read_preset
from tasks.problem import Problem, to_table
from tasks.recipe import wiring
from tasks.report.stage import ReportConfig
from tasks.report.write import run
from tasks.tables import METRICS, PROBLEMS, QUESTION_SCORES, SAMPLES, SCORES, TABLES

SKILL = {
    "base": (0.22, 0.72, 40), "r1-zero": (0.74, 0.71, 58), "dev1": (0.55, 0.97, 44),
    "dev2": (0.76, 0.985, 55), "dev3": (0.75, 0.98, 50), "r1": (0.80, 0.99, 53),
    "tiny-student-base": (0.12, 0.7, 38),
    "tiny-student-distilled": (0.66, 0.98, 49), "tiny-student-rl-only": (0.42, 0.74, 51),
}  # fmt: skip
"""Checkpoint -> (pass@1, language consistency, tokens)."""

TINY = read_preset("tiny")
GRAPH = wiring(TINY, load_student(TINY.student), TINY.student)
NODES = GRAPH.nodes
PARENTS = {
    node: list(feeds.values())
    for node, feeds in GRAPH.feeds.items()
    if "." not in node and node not in ("problems", "report")
}
RL = ("r1-zero", "dev2", "r1", "tiny-student-rl-only")
HARDNESS = {"math": 1.0, "code": 0.9, "stem": 1.05, "logic": 0.7}
HOSTILE = (
    '<think> 7 <script>alert("x")</script> ![i](http://evil.example/i.png) </think> <answer> 7 </answer>'
)


def problems(count: int) -> list[Problem]:
    """`count` held-out problems a domain, and as many general ones."""
    rng = random.Random(0)
    made = []
    for domain in ("math", "code", "stem", "logic"):
        for i in range(count):
            a, b, language = rng.randint(10, 99), rng.randint(10, 99), "en" if i % 5 < 3 else "zh"
            prompt = f"Compute {a} + {b} . ({domain})" if language == "en" else f"计算 {a} + {b} 。({domain})"
            made.append(
                Problem(
                    f"{domain}-{i:03d}", domain, language, prompt, str(a + b), "exact", source="tiny-world",
                    split="held_out", level=1 + i % 5,
                )
            )  # fmt: skip
    for i in range(count):
        args = {"set": "helpfulness", "must": ["hello"], "should": ["tom"], "must_not": ["rude"]}
        made.append(
            Problem(
                f"general-{i:03d}", "general", "en", f"Greet Tom {i}.", "", "rubric", args, split="held_out"
            )
        )
    return made


def samples(node: str, questions: list[Problem], count: int) -> list[dict]:
    """`count` completions a question, right as often as the node's skill says."""
    rng = random.Random(node)
    skill, language, tokens = SKILL[node]
    return [_sample(p, k, rng, skill, language, tokens) for p in questions for k in range(count)]


def _sample(p: Problem, k: int, rng: random.Random, skill: float, language: float, tokens: int) -> dict:
    right = rng.random() < skill * (0.75 if p.domain == "logic" else 1) * (1.2 - 0.1 * (p.level or 2))
    answer = p.answer if right else str(rng.randint(20, 198))
    hard = "so wait 等于 " if rng.random() > language else "so "
    text = f"<think> {p.prompt} {hard} {answer} , check {answer} . </think>\n<answer> {answer} </answer>"
    verdict = "correct" if right else rng.choice(["wrong", "wrong", "unparseable"])
    if p.verifier == "rubric":
        answer, verdict = ("hello tom" if rng.random() < skill else "ok"), None
    return {
        "problem_id": p.id, "sample_index": k, "step": None, "checkpoint": "0" * 64,
        "prompt": f"User: {p.prompt} Assistant:",
        "completion": HOSTILE if (p.id, k) == ("math-000", 0) else text,
        "thinking": p.prompt, "answer": answer, "prompt_tokens": 20,
        "completion_tokens": max(5, int(rng.gauss(tokens, 8))), "finish_reason": "stop", "temperature": 0.6,
        "top_p": 0.95, "max_new_tokens": 96, "seed": k, "engine": "transformers 5.17.0", "verdict": verdict,
        "reward": None, "reward_accuracy": float(right), "reward_format": 1.0,
        "reward_language": min(1.0, max(0.0, rng.gauss(language, 0.05))), "reward_helpful": None,
        "reward_safety": None,
    }  # fmt: skip


def row_with(question, text):
    """A row of a `samples` table with `text` wherever a model or a plugin could have written it."""
    return {
        "problem_id": question, "sample_index": 0, "verdict": text, "reward": 1.0, f"reward_{text}": 0.5,
        "completion": f"<think>{text}</think>{text}", "completion_tokens": 7,
        "finish_reason": text,
    }  # fmt: skip


def metrics(node: str, steps: int) -> list[dict]:
    """Curves of the usual shape with noise."""
    rng = random.Random(f"{node} curves")
    skill, language, tokens = SKILL[node]
    rows = []
    for step in range(steps):
        done = 1 - 2.7 ** (-4 * step / steps)
        rate = 0.2 + (skill - 0.2) * done
        values = {"loss": 1.6 - 1.2 * done, "token_accuracy": 0.5 + 0.4 * done}
        if node in RL:
            values = {
                "reward": rate + 0.9, "completion_length": 35 + (tokens - 35) * done,
                "language_consistency": language, "reflective_words": 0.2 + 0.6 * done, "kl": 0.02 * done,
                "entropy": 1.4 - done, "truncated_share": 0.05 * (1 - done),
                "zero_spread_share": 0.2 + 0.3 * done, "pass_rate": rate,
                **{f"pass_rate_{domain}": rate * factor for domain, factor in HARDNESS.items()},
            }  # fmt: skip
        rows += [{"step": step, "name": n, "value": v * rng.gauss(1, 0.06)} for n, v in values.items()]
    return rows


def evaluation_metrics(node: str, steps: int) -> list[dict]:
    """The curve of an evaluation every tenth of the training."""
    rng = random.Random(f"{node} evaluated")
    skill, language, tokens = SKILL[node]
    rows = []
    for step in range(0, steps + 1, max(1, steps // 10)):
        done = 1 - 2.7 ** (-4 * step / steps)
        rate = (0.2 + (skill - 0.2) * done) * rng.gauss(1, 0.04)
        length, words = 35 + (tokens - 35) * done, 0.2 + 0.6 * done
        values = {"pass_at_1": rate, "cons_at_4": rate**0.7, "length": length, "reflective_words": words,
                  "language_consistency": language, "format": 1.0}  # fmt: skip
        rows += [{"step": step, "name": name, "value": value} for name, value in values.items()]
    return rows


def no_pair_is_equal(pairs: Sequence[Pair]) -> list[bool]:
    """The answers here are whole numbers: different texts are different answers."""
    return [False] * len(pairs)


class World:
    """Artifacts written one after another, each knowing its parents' digests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inputs: dict[str, Input] = {}

    def seal(self, name: str, kind: Kind, seconds: float, **summary: float) -> Path:
        """Write the manifest of folder `name`; its files are there already."""
        label, _, node = name.rpartition(".")
        feeds = [] if label == "evaluation" else PARENTS.get(node, [])
        parents = [n for n in self.inputs if n.rpartition(".")[2] in feeds]
        made = NODES["evaluation" if label == "evaluation" else node]
        document, manifest = seal(
            ManifestDraft(
                kind=kind, stage=made.stage.name, stage_version=1, node=node, preset="tiny", seconds=seconds,
                key=hashlib.sha256(name.encode()).hexdigest(),
                config=made.config.model_dump(mode="json"),
                parents={n: self.inputs[n].ref for n in parents},
                versions={"torch": "2.13.0", "trl": "1.16.0"}, code_revision="b8535558c550",
                accelerator_hours=0.0, summary=summary,
            ),
            (),
        )  # fmt: skip
        (self.root / name / "manifest.json").write_bytes(document)
        self.inputs[name] = Input(Ref(kind=kind, digest=manifest.digest), self.root / name)
        return self.root / name


def write_run(root: Path, questions: int = 6, count: int = 4, steps: int = 60) -> dict[str, Input]:
    """The inputs of a report job under `root`."""
    world, held_out = World(root), problems(questions)
    write_table(_folder(root, "problems") / "problems.parquet", to_table(held_out), PROBLEMS)
    world.seal("problems", Kind.problems, 2.1)
    for node in PARENTS:
        if node in SKILL:
            folder = _folder(root, f"checkpoint.{node}")
            if not node.endswith("base"):
                write_table(folder / "metrics.parquet", metrics(node, steps), METRICS)
                write_table(folder / "samples.parquet", samples(node, held_out, count), SAMPLES)
            if node in RL:
                write_table(folder / "evaluation_metrics.parquet", evaluation_metrics(node, steps), METRICS)
                evaluated = [row | {"step": k} for k in (0, steps) for row in samples(node, held_out[:3], 1)]
                write_table(folder / "evaluation_samples.parquet", evaluated, SAMPLES)
            world.seal(f"checkpoint.{node}", Kind.checkpoint, 96.0 if node in RL else 12.5, reward=1.6)
        elif node == "reward-models":
            _folder(root, "reward_models.reward-models")
            world.seal("reward_models.reward-models", Kind.reward_models, 31.0, helpful_accuracy=0.9)
        else:
            _dataset(world, node, held_out, count)
    for node in SKILL:
        folder, rows = _folder(root, f"evaluation.{node}"), samples(node, held_out, count)
        write_table(folder / "samples.parquet", rows, SAMPLES)
        sets = [QuestionSet(held_out, count)]
        by_question = question_scores(conform(rows, SAMPLES), sets, no_pair_is_equal)
        write_table(folder / "question_scores.parquet", by_question, QUESTION_SCORES)
        write_table(folder / "scores.parquet", scores(by_question, sets, seed=0), SCORES)
        world.seal(f"evaluation.{node}", Kind.evaluation, 9.3)
    return world.inputs


def _folder(root: Path, name: str) -> Path:
    (root / name).mkdir(parents=True)
    return root / name


def _dataset(world: World, node: str, held_out: list[Problem], count: int) -> None:
    folder = _folder(world.root, f"dataset.{node}")
    rows = samples("r1-zero", held_out, count)
    reasons = {"wrong": "wrong_answer", "unparseable": "unparseable"}
    rejected = [
        {"problem_id": r["problem_id"], "text": r["completion"], "reason": reasons[v], "detail": ""}
        for r in rows if (v := r["verdict"]) in reasons
    ]  # fmt: skip
    kept = [
        {"problem_id": r["problem_id"], "domain": r["problem_id"].split("-")[0], "language": "en",
         "prompt": r["prompt"], "completion": r["completion"], "source": "0" * 64}
        for r in rows if r["verdict"] == "correct"
    ]  # fmt: skip
    for name, table in (("samples", rows), ("rejected", rejected), ("sft", kept)):
        write_table(folder / f"{name}.parquet", table, TABLES[name])
    funnel = Funnel()
    funnel.add("correct and well formed", len(kept), Counter(row["reason"] for row in rejected))
    funnel.add("near duplicates", len(kept) - 2, {"near_duplicate": 2})
    funnel.write(folder)
    world.seal(f"dataset.{node}", Kind.dataset, 40.0)


def report_job(root: Path, inputs: dict[str, Input]) -> Job:
    """A job whose draft lies in `root/work/draft`."""
    job = Job(node="report", stage="report", inputs=inputs, folder=root / "work")
    job.draft.mkdir(parents=True)
    return job


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    job = report_job(folder, write_run(folder / "inputs", *(int(n) for n in sys.argv[2:])))
    run(ReportConfig(), job)
    print(job.draft / "report.html", job.headline)
