"""What cannot work with the problems at hand, found before anything is trained. No Prefect, no torch.

The counts are those that the problems stage writes into its manifest (`tasks.problem.counts`); where it has
not run yet, they are counted in the files that its sources read. Of generated problems nothing is known
before they are generated: the pipeline looks again as soon as they are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from artifacts.store import ArtifactStore
from flows.graph import Pipeline, key_of
from tasks.cold_start.stage import ColdStartConfig
from tasks.evaluate.stage import EvaluateConfig
from tasks.problem import DOMAINS, RUBRIC_SETS, counts
from tasks.problems.stage import ProblemsConfig
from tasks.recipe import Node
from tasks.rejection_sampling.stage import RejectionSamplingConfig
from tasks.reward_models.stage import RewardModelsConfig
from tasks.rl.stage import RLConfig
from tasks.settings import REPOSITORY

Counts = Mapping[str, Any]


def objections(pipeline: Pipeline, store: ArtifactStore) -> list[str]:
    """A sentence with a remedy for every node that cannot be made; empty where nothing is known to fail.

    Raises:
        StoreError: the artifact that stands for the problems is not there.
    """
    found = known_counts(pipeline, store)
    return [] if found is None else list(complaints(pipeline.nodes, found))


def known_counts(pipeline: Pipeline, store: ArtifactStore) -> Counts | None:
    """What is known of the problems; None where that is nothing."""
    if "problems" in pipeline.wired.used:
        ref = store.resolve(pipeline.wired.used["problems"][1], pipeline.name)
        return store.manifest(ref.digest).summary
    if "problems" not in pipeline.nodes:
        return None
    node = pipeline.node("problems")
    if made := store.lookup(key_of(node, {})):
        return store.manifest(made.digest).summary
    assert isinstance(node.config, ProblemsConfig)
    given = [source.peek() for source in node.config.sources]
    if any(problems is None for problems in given):
        return None
    return counts([problem for problems in given for problem in problems or ()])


def complaints(nodes: Mapping[str, Node], found: Counts) -> Iterator[str]:
    """One sentence for each node that they cannot serve; what `found` does not say is not judged."""
    if not any(f"train_{domain}" in found for domain in DOMAINS):
        return
    train = {domain: int(found.get(f"train_{domain}", 0)) for domain in DOMAINS}
    if unknown := sorted(set(str(found.get("verifiers", "")).split()) - _verifiers()):
        known = ", ".join(sorted(_verifiers()))
        yield (
            f"problems ask for the verifier {', '.join(unknown)}, which has no file in "
            f"tasks/rewards/verifiers: fix column `verifier` (there are {known}), or add one"
        )
    for name, node in nodes.items():
        config = node.config
        if isinstance(config, RLConfig | ColdStartConfig | RejectionSamplingConfig):
            late = isinstance(config, RLConfig) and config.general_last_steps is not None
            asked = [d for d in config.domains if not (late and d == "general")]
            if not any(train[domain] for domain in asked):
                yield f"{name}: the problems have no training rows of {', '.join(asked)}: set {name}.domains"
            if late and not train["general"]:
                yield (
                    f"{name}: the problems have no general training rows, which general_last_steps asks for: "
                    f"skip: [reward-models], or set {name}.general_last_steps: null"
                )
        answered = found.get("general_with_answer", train["general"])
        if isinstance(config, RejectionSamplingConfig) and config.general_share and not answered:
            yield (
                f"{name}: the problems have no general training rows with an answer, and general_share is "
                f"{config.general_share:g}: set {name}.general_share: 0"
            )
        if isinstance(config, RewardModelsConfig) and (missing := _missing_sets(found, train["general"])):
            yield (
                f"{name}: the problems have no general training rows with a rubric of set "
                f"{' and '.join(missing)}: skip: [reward-models]"
            )
        if isinstance(config, EvaluateConfig) and not any(found.get(f"held_out_{d}") for d in DOMAINS):
            yield f"{name}: the problems have no held-out rows: give some `split: held_out`"
        for benchmark in config.benchmarks if isinstance(config, EvaluateConfig) else ():
            if not found.get(f"benchmark_{benchmark}"):
                yield (
                    f"{name}: the problems hold no question of benchmark {benchmark}: make them with the "
                    f"same {name}.benchmarks, or remove it"
                )


def _missing_sets(found: Counts, general: int) -> list[str]:
    """Older manifests do not count rubrics."""
    if general and not any(f"rubric_{name}" in found for name in RUBRIC_SETS):
        return [] if "verifiers" not in found else list(RUBRIC_SETS)
    return [name for name in RUBRIC_SETS if not found.get(f"rubric_{name}")]


def _verifiers() -> set[str]:
    """The names that problems may give; found as files, since the modules are slow to import."""
    files = (REPOSITORY / "tasks" / "rewards" / "verifiers").glob("[!_]*.py")
    return {"rubric", *(path.stem for path in files)}
