"""Where longer thinking is right more often, and RL lengthens it (paper Fig. 1b; 2.1, 4.5 in miniature).

    python -m benchmarks.thinking MODEL_FOLDER OUT          a GPU, SmolLM2-135M: some minutes
    python -m benchmarks.thinking TINY_FOLDER OUT --tiny    the same code on a CPU; it shows nothing

The families of the preset `smollm2-135m` are answered in one step, so RL shortens the completions there. Here
the questions are sums of six numbers. First comes continued pre-training on messy worked examples: each adds
up 1, 2, 3 or all 5 of the terms that are left in one equation, drawn evenly whatever the question, and every
equation is wrong with a chance of 10%. The examples do not favour a way of working: finer steps only have
more places to go wrong. Then R1-Zero's RL, accuracy and format rewards, through the stages' own code. Each
question is asked once, so the curve is that of questions that were not seen before.

OUT gets `curve.parquet` (a row a step: length, pass rate, share of completions with so many equations),
`ways.parquet` (how often each way is right at the start and how common it is at both ends) and `curve.svg`.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artifacts.refs import Ref
from artifacts.tables import read_table, write_table
from tasks.job import Input, Job
from tasks.kinds import Kind
from tasks.problem import Problem, to_table
from tasks.rendering import render_prompt
from tasks.report.plot import canvas, to_svg
from tasks.rl import train as rl
from tasks.rl.stage import RLConfig
from tasks.rollout.settings import EngineSettings
from tasks.sft import train as sft
from tasks.sft.stage import SFTConfig
from tasks.tables import PROBLEMS, SFT

TERMS = 6
AT_ONCE = (1, 2, 3, TERMS - 1)
"""Terms that one equation adds."""
SLIP = 0.1
EDGE = 5
"""Steps at the beginning and at the end that `ways` compares."""
_EQUATION = re.compile(r"=\s*-?\d")


def expression(rng: random.Random) -> list[tuple[str, int]]:
    """Six signed numbers of two digits; the first sign is `+`."""
    return [("+" if i == 0 else rng.choice("+-"), rng.randint(10, 99)) for i in range(TERMS)]


def shown(terms: list[tuple[str, int]]) -> str:
    return " ".join(f"{sign} {number}" for sign, number in terms).removeprefix("+ ")


def total(terms: list[tuple[str, int]]) -> int:
    return sum(number if sign == "+" else -number for sign, number in terms)


def question(terms: list[tuple[str, int]]) -> str:
    return f"What is {shown(terms)}?"


def working(terms: list[tuple[str, int]], at_once: int, rng: random.Random) -> tuple[str, int]:
    """Equations that each add `at_once` terms, and what comes out; one that slips is off by a little."""
    so_far, equations = terms[0][1], []
    for start in range(1, len(terms), at_once):
        part = terms[start : start + at_once]
        result = so_far + total(part)
        if rng.random() < SLIP:
            result += rng.choice((-10, -2, -1, 1, 2, 10))
        equations.append(f"{so_far} {' '.join(f'{s} {n}' for s, n in part)} = {result}.")
        so_far = result
    return " ".join(equations), so_far


def worked_examples(count: int) -> list[dict[str, Any]]:
    rng = random.Random("worked examples")
    rows = []
    for i in range(count):
        terms = expression(rng)
        text, answer = working(terms, rng.choice(AT_ONCE), rng)
        rows.append(
            {"problem_id": str(i), "domain": "math", "language": "en", "source": "worked examples",
             "prompt": render_prompt("plain", question(terms)),
             "completion": f" <think> {text} </think> <answer> {answer} </answer>"}
        )  # fmt: skip
    return rows


def problems(count: int) -> list[Problem]:
    rng = random.Random("problems")
    drawn = [expression(rng) for _ in range(count)]
    return [
        Problem(f"sum-{i}", "math", "en", question(terms), str(total(terms)), "math")
        for i, terms in enumerate(drawn)
    ]


def equations(samples: pa.Table) -> pa.Array:
    """How many equations stand in each completion."""
    return pa.array([len(_EQUATION.findall(text)) for text in samples["completion"].to_pylist()])


def curve(samples: pa.Table) -> pa.Table:
    """A row a step: mean length in tokens, pass rate, and the share of completions with n equations."""
    ways = sorted({-(-(TERMS - 1) // at_once) for at_once in AT_ONCE})
    columns = {
        "step": samples["step"],
        "length": samples["completion_tokens"],
        "pass_rate": pc.equal(samples["verdict"], "correct").cast(pa.float64()),
        **{f"equations_{n}": pc.equal(samples["equations"], n).cast(pa.float64()) for n in ways},
    }
    means = [(name, "mean") for name in columns if name != "step"]
    found = pa.table(columns).group_by("step").aggregate(means).sort_by("step")
    return found.rename_columns([name.removesuffix("_mean") for name in found.column_names])


def ways(samples: pa.Table) -> pa.Table:
    """By the number of equations: share, pass rate and length in the first and in the last steps."""
    last = pc.max(samples["step"]).as_py()
    rows = []
    for edge, first in (("start", 1), ("end", last - EDGE + 1)):
        part = samples.filter(pc.field("step").isin(range(first, first + EDGE)))
        for n in sorted(set(part["equations"].to_pylist())):
            here = part.filter(pc.field("equations") == n)
            rows.append(
                {"edge": edge, "equations": n, "share": here.num_rows / part.num_rows,
                 "pass_rate": pc.mean(pc.equal(here["verdict"], "correct").cast(pa.float64())).as_py(),
                 "length": pc.mean(here["completion_tokens"]).as_py(), "completions": here.num_rows}
            )  # fmt: skip
    return pa.Table.from_pylist(rows)


def draw(points: pa.Table, file: Path) -> None:
    drawing = canvas(260)
    left = drawing.add_subplot()
    right = left.twinx()
    steps = points["step"].to_numpy()
    left.plot(steps, points["length"].to_numpy(), color="C0")
    right.plot(steps, points["pass_rate"].to_numpy(), color="C1")
    left.set(xlabel="step", ylabel="tokens of a completion")
    right.set(ylabel="pass rate", ylim=(0, 1))
    left.yaxis.label.set_color("C0")
    right.yaxis.label.set_color("C1")
    file.write_text(to_svg(drawing, "Length and pass rate by step").svg, "utf-8")


def job_in(scratch: Path, node: str, stage: str, **inputs: tuple[Kind, Path]) -> Job:
    given = {name: Input(Ref(kind=kind, digest="0" * 64), path) for name, (kind, path) in inputs.items()}
    job = Job(node, stage, given, scratch / node)
    for place in (job.state, job.draft):
        place.mkdir(parents=True, exist_ok=True)
    return job


def settings(tiny: bool, steps: int) -> tuple[SFTConfig, RLConfig]:
    pretraining = SFTConfig(
        epochs=2, batch_size=64, micro_batch_tokens=32_768, learning_rate=1e-4, max_length=512, bf16=True
    )
    training = RLConfig(
        template="plain", domains=("math",), steps=steps, group_size=16, questions_per_step=16,
        mini_batches_per_rollout=1, micro_batch_tokens=32_768, learning_rate=1e-5, max_completion_length=200,
        checkpoint_every=10_000, bf16=True, keep_state=False,
        engine=EngineSettings(name="vllm", gpu_memory_share=0.3),
    )  # fmt: skip
    if not tiny:
        return pretraining, training
    small: dict[str, Any] = {"bf16": False, "micro_batch_tokens": 1_024}
    return (
        pretraining.model_copy(update=small | {"epochs": 1, "max_length": 256}),
        training.model_copy(
            update=small | {"group_size": 4, "questions_per_step": 4, "max_completion_length": 60,
                            "engine": EngineSettings(), "futile_rollouts": 0}
        ),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="a Hugging Face folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--examples", type=int, default=6_400)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pretraining, training = settings(args.tiny, args.steps)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        for name in ("base", "examples", "problems"):
            (scratch / name).mkdir()
        (scratch / "base/model").symlink_to(args.model.resolve())
        write_table(scratch / "examples/sft.parquet", worked_examples(args.examples), SFT)
        asked = problems(args.steps * training.questions_per_step)
        write_table(scratch / "problems/problems.parquet", to_table(asked), PROBLEMS)
        taught = job_in(
            scratch, "pretrained", "sft", checkpoint=(Kind.checkpoint, scratch / "base"),
            dataset=(Kind.dataset, scratch / "examples"),
        )  # fmt: skip
        sft.run(pretraining, taught)
        print("continued pre-training:", taught.headline, flush=True)
        trained = job_in(
            scratch, "trained", "rl-zero", checkpoint=(Kind.checkpoint, taught.draft),
            problems=(Kind.problems, scratch / "problems"),
        )  # fmt: skip
        rl.run(training, trained)
        print("RL:", trained.headline, flush=True)
        columns = ["step", "completion", "completion_tokens", "verdict"]
        samples = read_table(trained.draft / "samples", columns)
        samples = samples.append_column("equations", equations(samples))
    found, by_way = curve(samples), ways(samples)
    pq.write_table(found, args.out / "curve.parquet")
    pq.write_table(by_way, args.out / "ways.parquet")
    draw(found, args.out / "curve.svg")
    for row in by_way.to_pylist():
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
