"""Why a claim of `benchmarks.seeds` does not show: its checkpoints asked again, under other conditions.

    python -m benchmarks.claim_checks cooler --temperature 0.1 --nodes r1-zero dev1 --domains general

Reads the stores that `benchmarks.seeds --work` left, draws new held-out problems from the preset's sources,
leaves out those with a prompt that a run has trained on, evaluates the checkpoints of every seed on them, and
tells each claim again: over the means of the questions, averaged over the seeds. Nothing is trained. `--out`
gets NAME.json. What was evaluated before is not evaluated again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifacts.files import write_atomic
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from artifacts.tables import read_table
from benchmarks.seeds import pooled_measures, seed_changes, seeds_interval, tell
from flows.experiments import Variant
from flows.graph import Pipeline, load_pipeline
from flows.local_builder import LocalBuilder
from tasks.problem import DOMAINS, Problem, from_table
from tasks.recipe import role
from tasks.report.claims import CLAIMS, check_all, interval_of
from tasks.report.data import question_means
from tasks.rollout.settings import Sampling
from tasks.settings import REPOSITORY

Means = dict[str, dict[str, dict[str, float]]]
"""Role -> measure -> problem id -> mean."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claim_checks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", help="of the file that is written")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=240, help="held-out problems of a domain")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=DOMAINS)
    parser.add_argument("--nodes", nargs="*", default=[], help="checkpoints; all by default")
    parser.add_argument("--work", type=Path, default=Path(".r1") / "seeds", help="as for benchmarks.seeds")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results" / "tiny")
    options = parser.parse_args()
    runs = [asked_again(options, seed) for seed in range(options.seeds)]
    claims = told(runs)
    command = shlex.join(["python", "-m", "benchmarks.claim_checks", *sys.argv[1:]])
    document = json.dumps({"command": command, "claims": claims}, indent=1, ensure_ascii=False)
    write_atomic(options.out / f"{options.name}.json", document.encode() + b"\n")
    for claim in claims:
        tell(f"{claim['verdict']:20} {claim['says']}: {claim['measured']}")


def asked_again(options: argparse.Namespace, seed: int) -> Means:
    """Question means of the checkpoints of one seed, on new problems."""
    os.environ["R1_HOME"] = str((options.work / f"seed-{seed}").absolute())
    store = ArtifactStore.open(str(options.work.absolute() / f"seed-{seed}" / "store"))
    own = load_pipeline(options.preset)
    changes: dict[str, Any] = dict(seed_changes(own, seed))
    made = load_pipeline(options.preset, variant=Variant(changes, (), {}, "", f"seed-{seed}"))
    again = load_pipeline(options.preset, variant=Variant(changes, (), {}, "", f"{options.name}-{seed}"))
    builder = LocalBuilder(again, store, lambda line: tell(f"[seed {seed}] {line}"))
    problems = new_problems(builder, options)
    checkpoints = {node: ref for node, ref in _checkpoints(made, store).items() if wanted(node, options)}
    node = again.node("evaluation")
    sampling: Sampling = node.config.sampling  # type: ignore[attr-defined]
    config = node.config.model_copy(
        update={
            "problems_per_domain": options.questions, "samples_per_problem": options.samples,
            "sampling": sampling.model_copy(update={"temperature": options.temperature}),
        }
    )  # fmt: skip
    evaluations = builder.make_each("evaluation", node.stage, config, checkpoints, problems=problems)
    trained_on = {p.prompt for p in _problems(store, _ref(made, store, "problems")) if p.split == "train"}
    asked = [p for p in _problems(store, problems) if p.split == "held_out"]
    seen = {p.id for p in asked if p.prompt in trained_on}
    tell(f"[seed {seed}] {len(seen)} of {len(asked)} problems left out, as it trained on them")
    return {
        role(label): without(question_means(read_table(store.fetch(ref) / "question_scores")), seen)
        for label, ref in evaluations.items()
    }


def new_problems(builder: LocalBuilder, options: argparse.Namespace) -> Ref:
    """More held-out problems of the domains that are asked for."""
    node = builder.pipeline.node("problems")
    held_out = dict.fromkeys(options.domains, options.questions)
    sources = [s.model_copy(update={"held_out": held_out}) for s in node.config.sources]  # type: ignore[attr-defined]
    return builder.make("problems", node.stage, node.config.model_copy(update={"sources": sources}))


def wanted(node: str, options: argparse.Namespace) -> bool:
    return not options.nodes or node in options.nodes


def without(means: dict[str, dict[str, float]], seen: set[str]) -> dict[str, dict[str, float]]:
    return {
        measure: {question: value for question, value in values.items() if question not in seen}
        for measure, values in means.items()
    }


def told(runs: Sequence[Means]) -> list[dict[str, Any]]:
    """Each claim that rests on evaluations alone and whose checkpoints were asked."""
    found = []
    for claim, result in zip(CLAIMS, check_all(pooled_measures(runs), {}), strict=True):
        intervals = [interval_of(claim, run, {}) for run in runs]
        values = [interval.value for interval in intervals if interval is not None]
        if len(values) == len(runs):
            low, high = seeds_interval(values)
            found.append(
                {"says": claim.says, "measured": result.measured, "verdict": result.verdict.value,
                 "by_seed": values, "seed_low": low, "seed_high": high}
            )  # fmt: skip
    return found


def _checkpoints(pipeline: Pipeline, store: ArtifactStore) -> dict[str, Ref]:
    nodes = [n.removeprefix("evaluation.") for n in pipeline.feeds if n.startswith("evaluation.")]
    return {node: _ref(pipeline, store, node) for node in nodes}


def _ref(pipeline: Pipeline, store: ArtifactStore, node: str) -> Ref:
    ref = store.get_ref(pipeline.ref_name(node))
    if ref is None:
        sys.exit(f"{pipeline.ref_name(node)} is not in {store}: run `python -m benchmarks.seeds` first")
    return ref


def _problems(store: ArtifactStore, ref: Ref) -> list[Problem]:
    return from_table(read_table(store.fetch(ref) / "problems"))


if __name__ == "__main__":
    main()
