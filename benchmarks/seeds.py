"""The claims of the paper over several training runs: a preset with other seeds, and what all runs show.

    python -m benchmarks.seeds                                    five seeds of `tiny`, one after another
    python -m benchmarks.seeds --parallel 5 --threads 3           all at once, three threads each
    python -m benchmarks.seeds --out /tmp/seeds --seeds 2 --set r1-zero.steps=5      a small one, to try it

Seed k adds 1000 x k to the seed of every stage but the problems, so that base, problems and held-out
questions are the same in all runs. Each run is a `python -m flows.local` of its own with a store of its own
under `--work`; the same command after an interruption goes on from there. No server is needed.

Into `--out` it writes what it found (`README.md` has the tables and says which file holds what):

    scores.parquet           a row for each seed, checkpoint, group of questions and metric, with the 95%
                             interval over questions
    pooled.parquet           the same over all seeds, with the interval over questions and that over seeds
    question_scores.parquet  the value of each question that both and the claims are computed from
    curves.parquet           the training curves
    claims.json              each claim: in how many seeds it reproduces, its interval over seeds, and its
                             verdict on the question means and curves averaged over all seeds
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.files import write_atomic
from artifacts.store import ArtifactStore
from artifacts.tables import read_table
from flows.ablation import SEED_STEP
from flows.experiments import parsed_changes
from flows.graph import Pipeline, load_pipeline
from tasks.intervals import bootstrap, over_runs
from tasks.problem import VERIFIABLE, from_table
from tasks.recipe import in_order, role, title
from tasks.report.claims import CLAIMS, ClaimVerdict, Curves, Measures, check_all, interval_of
from tasks.report.data import by_name, question_means
from tasks.settings import REPOSITORY

_SHOWN = ("pass_at_1", "language_consistency", "helpfulness", "length")


@dataclass(frozen=True)
class SeedRun:
    """What a finished run of one seed says."""

    seed: int
    questions: list[dict[str, Any]]
    """Rows of `question_scores` with their checkpoint's `node` and the question's `level`."""
    measures: Measures
    curves: Curves
    versions: Mapping[str, str]
    seconds: float
    """Of its jobs."""


@dataclass(frozen=True)
class PooledClaim:
    """A claim over all runs."""

    says: str
    paper: str
    shown_by: int
    """Seeds whose own verdict is that it reproduces."""
    seeds: int
    by_seed: list[float]
    """Its contrast in each seed: above 0 is what the claim says."""
    seed_low: float
    seed_high: float
    """95% interval over seeds (Student's t)."""
    measured: str
    verdict: ClaimVerdict
    """On question means and curves averaged over the seeds; its interval is over questions (or steps)."""


def seed_changes(pipeline: Pipeline, seed: int) -> dict[str, int]:
    """`NODE.seed` -> value for run number `seed`; the first run (0) has the preset's own seeds."""
    return {
        f"{name}.seed": node.config.seed + SEED_STEP * seed
        for name, node in pipeline.nodes.items()
        if name != "problems" and hasattr(node.config, "seed")
    }


def seeds_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval for the mean over training runs; NaN for a single one."""
    return over_runs(values) or (float("nan"), float("nan"))


def pooled_measures(runs: Sequence[Measures]) -> dict[str, dict[str, dict[str, float]]]:
    """Question means averaged over the runs, of the questions that every run has."""
    return {
        node: {
            measure: {
                question: float(np.mean([run[node][measure][question] for run in runs]))
                for question in first[measure]
                if all(question in run.get(node, {}).get(measure, {}) for run in runs)
            }
            for measure in first
        }
        for node, first in runs[0].items()
    }


def pooled_curves(runs: Sequence[Curves]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Each training metric averaged over the runs, at the steps that every run has."""
    pooled: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for node, metrics in runs[0].items():
        pooled[node] = {}
        for metric in metrics:
            points = [dict(run.get(node, {}).get(metric, ())) for run in runs]
            steps = sorted(set.intersection(*(set(p) for p in points)))
            pooled[node][metric] = [(step, float(np.mean([p[step] for p in points]))) for step in steps]
    return pooled


def pooled_claims(runs: Sequence[SeedRun]) -> list[PooledClaim]:
    """Every claim in each run and over all of them."""
    measures, curves = pooled_measures([r.measures for r in runs]), pooled_curves([r.curves for r in runs])
    own = [check_all(run.measures, run.curves) for run in runs]
    found = []
    for i, (claim, result) in enumerate(zip(CLAIMS, check_all(measures, curves), strict=True)):
        intervals = [interval_of(claim, run.measures, run.curves) for run in runs]
        values = [float("nan") if interval is None else interval.value for interval in intervals]
        low, high = seeds_interval(values)
        shown = sum(results[i].verdict is ClaimVerdict.reproduces for results in own)
        found.append(
            PooledClaim(claim.says, claim.paper, shown, len(runs), values, low, high, result.measured,
                        result.verdict)
        )  # fmt: skip
    return found


def groups(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(by, group) of every group of questions that a row of `question_scores` counts in."""
    yield "domain", row["domain"]
    if row["domain"] in VERIFIABLE:
        yield "domain", "verifiable"
        if row["level"] is not None:
            yield "level", str(row["level"])


def grouped(run: SeedRun) -> dict[tuple[str, str, str, str], dict[str, float]]:
    """(node, by, group, metric) -> problem id -> value."""
    found: dict[tuple[str, str, str, str], dict[str, float]] = defaultdict(dict)
    for row in run.questions:
        for by, group in groups(row):
            found[row["node"], by, group, row["metric"]][row["problem_id"]] = row["value"]
    return found


def score_rows(run: SeedRun) -> Iterator[dict[str, Any]]:
    """Rows of `scores.parquet`."""
    for (node, by, group, metric), values in grouped(run).items():
        mean = bootstrap(list(values.values()))
        assert mean is not None
        yield {"seed": run.seed, "node": node, "by": by, "group": group, "metric": metric,
               "value": mean.value, "low": mean.low, "high": mean.high, "questions": mean.count}  # fmt: skip


def pooled_rows(runs: Sequence[SeedRun]) -> Iterator[dict[str, Any]]:
    """Rows of `pooled.parquet`."""
    of_runs = [grouped(run) for run in runs]
    for key, first in of_runs[0].items():
        if not all(key in found for found in of_runs):
            continue
        shared = [q for q in first if all(q in found[key] for found in of_runs)]
        values = np.array([[found[key][q] for q in shared] for found in of_runs])  # (seeds, questions)
        mean = bootstrap(values.mean(axis=0))
        if mean is None:
            continue
        seed_low, seed_high = seeds_interval(values.mean(axis=1).tolist())
        yield dict(zip(("node", "by", "group", "metric"), key, strict=True)) | {
            "value": mean.value, "low": mean.low, "high": mean.high, "questions": mean.count,
            "seeds": len(runs), "seed_low": seed_low, "seed_high": seed_high,
        }  # fmt: skip


# ---- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    preset: str
    changes: Sequence[str]
    work: Path
    threads: int

    def home(self, seed: int) -> Path:
        """The folder of one run: store, work and log."""
        return self.work / f"seed-{seed}"

    @property
    def pipeline(self) -> Pipeline:
        from flows.experiments import Variant

        return load_pipeline(self.preset, variant=Variant(parsed_changes(self.changes)))

    def command(self, seed: int) -> list[str]:
        seeds = [f"{key}={value}" for key, value in seed_changes(self.pipeline, seed).items()]
        options = [word for change in (*self.changes, *seeds) for word in ("--set", change)]
        return [sys.executable, "-u", "-m", "flows.local", self.preset, "--name", f"seed-{seed}", *options]


_print_lock = threading.Lock()


def tell(text: str) -> None:
    """Print one line at once, whichever thread says it."""
    with _print_lock:
        print(text, flush=True)


def run_seed(asked: Request, seed: int) -> int:
    """Run (or go on with) one seed; returns the exit code. Its lines are printed and kept in `log.txt`."""
    home, threads, began = asked.home(seed), str(asked.threads), time.monotonic()
    home.mkdir(parents=True, exist_ok=True)
    inherited = {name: v for name, v in os.environ.items() if name not in ("R1_STORE", "R1_WORK")}
    environment = inherited | {
        "R1_HOME": str(home.absolute()), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip
    with (
        (home / "log.txt").open("a", encoding="utf-8") as log,
        subprocess.Popen(
            asked.command(seed), cwd=REPOSITORY, env=environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            tell(f"[seed {seed} {time.monotonic() - began:6.0f} s] {line.rstrip()[:200]}")
    tell(f"[seed {seed}] ended with code {process.returncode} after {time.monotonic() - began:.0f} s")
    return process.returncode


def read_run(asked: Request, seed: int) -> SeedRun:
    """Read the evaluations and curves of a finished seed from its store."""
    store = ArtifactStore.open(str(asked.home(seed).absolute() / "store"))
    scope = f"{asked.pipeline.name.partition('@')[0]}@seed-{seed}/"
    refs = {name.removeprefix(scope): ref.ref for name, ref in store.refs().items() if name.startswith(scope)}
    problems = from_table(read_table(store.fetch(refs["problems"]) / "problems"))
    levels = {problem.id: problem.level for problem in problems}
    questions: list[dict[str, Any]] = []
    measures, curves = {}, {}
    manifests = [store.manifest(ref.digest) for ref in refs.values()]
    for name in in_order(refs):
        folder = store.fetch(refs[name])
        if name.startswith("evaluation."):
            node, table = name.partition(".")[2], read_table(folder / "question_scores")
            measures[role(node)] = question_means(table)
            questions += [
                row | {"node": node, "level": levels[row["problem_id"]]} for row in table.to_pylist()
            ]
        elif (folder / "metrics.parquet").exists():
            curves[role(name)] = by_name(read_table(folder / "metrics"))
    versions = {k: v for manifest in manifests for k, v in manifest.versions.items()}
    return SeedRun(seed, questions, measures, curves, versions, sum(m.seconds for m in manifests))


# ---- writing ------------------------------------------------------------------------------------


def write(out: Path, runs: Sequence[SeedRun], command: str, preset: str) -> None:
    """Write every file of `--out`."""
    out.mkdir(parents=True, exist_ok=True)
    claims, pooled = pooled_claims(runs), list(pooled_rows(runs))
    columns = ("seed", "node", "problem_id", "domain", "level", "metric", "value")
    questions = [{c: ({"seed": r.seed} | row)[c] for c in columns} for r in runs for row in r.questions]
    points = [
        {"seed": run.seed, "node": node, "metric": metric, "step": int(step), "value": value}
        for run in runs
        for node, metrics in run.curves.items()
        for metric, line in metrics.items()
        for step, value in line
    ]
    for name, rows in (
        ("scores", [row for run in runs for row in score_rows(run)]), ("pooled", pooled),
        ("question_scores", questions), ("curves", points),
    ):  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), out / f"{name}.parquet", compression="zstd")
    texts = json.dumps([asdict(claim) for claim in claims], indent=1, ensure_ascii=False)
    write_atomic(out / "claims.json", (texts + "\n").encode())
    write_atomic(out / "README.md", page(runs, claims, pooled, command, preset).encode())


def page(
    runs: Sequence[SeedRun], claims: Sequence[PooledClaim], pooled: Sequence[Mapping[str, Any]], command: str,
    preset: str,
) -> str:  # fmt: skip
    """`README.md` of the results."""
    versions = ", ".join(f"{name} {v}" for name, v in sorted(runs[0].versions.items()))
    hours = sum(run.seconds for run in runs) / len(runs) / 60
    parts = [
        f"# `{preset}` over {len(runs)} seeds",
        f"Made by `{command}`; {hours:.1f} minutes of jobs a seed. {versions}.",
        "Base, problems and held-out questions are the same in all runs; the seed of every other stage "
        "differs. Written by `benchmarks/seeds.py`, whose docstring says what each file here holds.",
        "## Claims",
        "`shown by`: seeds in which the claim reproduces by itself. The verdict is that of the question "
        "means and curves averaged over the seeds, with its interval over questions (or training steps). "
        "`over seeds` is the 95% interval (Student's t) of the same difference over training runs.",
        _table(("claim", "paper", "averaged over seeds", "over seeds", "shown by", "verdict"),
               [_claim_cells(claim) for claim in claims]),
        "## Scores",
        "Means over the seeds; in brackets the 95% interval over questions, then that over seeds.",
    ]  # fmt: skip
    for by in ("domain", "level"):
        for metric in _SHOWN:
            rows = [row for row in pooled if row["by"] == by and row["metric"] == metric]
            if not rows or (by == "level" and metric in ("language_consistency", "helpfulness")):
                continue
            names = list(dict.fromkeys(row["group"] for row in rows))
            names = sorted(names) if by == "level" else names
            cells = {(row["node"], row["group"]): _score_cell(row) for row in rows}
            lines = [
                (title(node), *(cells.get((node, name), "") for name in names))
                for node in in_order(list(dict.fromkeys(row["node"] for row in rows)))
            ]
            parts += [f"### {metric} by {by}", _table(("checkpoint", *names), lines)]
    return "\n\n".join(parts) + "\n"


def _claim_cells(claim: PooledClaim) -> tuple[str, ...]:
    over = f"{np.mean(claim.by_seed):+.3f} [{claim.seed_low:+.3f}, {claim.seed_high:+.3f}]"
    shown = f"{claim.shown_by} of {claim.seeds}"
    return claim.says, claim.paper, claim.measured, over, shown, claim.verdict.value


def _score_cell(row: Mapping[str, Any]) -> str:
    scale, digits = (100, 0) if row["metric"] in ("pass_at_1", "language_consistency") else (1, 2)
    value, *ends = (f"{scale * row[k]:.{digits}f}" for k in ("value", "low", "high", "seed_low", "seed_high"))
    return f"{value} [{ends[0]}, {ends[1]}] [{ends[2]}, {ends[3]}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, default=5, help="how many runs")
    parser.add_argument("--parallel", type=int, default=1, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=2, help="threads of a run")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results" / "tiny")
    parser.add_argument("--work", type=Path, default=Path(".r1") / "seeds", help="stores of the runs; kept")
    parser.add_argument("--set", action="append", default=[], help="NODE.SETTING=VALUE, as `r1 run` has it")
    options = parser.parse_args()
    asked = Request(options.preset, options.set, options.work, options.threads)
    asked.command(0)  # bad settings are refused before anything runs
    with ThreadPoolExecutor(options.parallel) as pool:
        codes = list(pool.map(lambda seed: run_seed(asked, seed), range(options.seeds)))
    if any(codes):
        failed = f"{sum(map(bool, codes))} of {len(codes)} seeds failed"
        sys.exit(f"{failed}, see log.txt in {options.work}: fix the cause and run this again")
    runs = [read_run(asked, seed) for seed in range(options.seeds)]
    write(options.out, runs, shlex.join(["python", "-m", "benchmarks.seeds", *sys.argv[1:]]), options.preset)
    tell((options.out / "README.md").read_text())


if __name__ == "__main__":
    main()
