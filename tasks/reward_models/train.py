"""Helpful and safety reward models (paper Methods, 3.1).

The checkpoint answers general prompts several times; a rubric or a language model judges them
(`preference_data.py` here).
Helpful: TRL's RewardTrainer on pairs of final answers, pairwise loss. Safety: one response at a time,
binary cross-entropy. Both start from the checkpoint with a scalar head, as in the paper. A fifth of the
problems trains neither model and gives the held-out accuracy.
Run it by itself: `prefect deployment run reward-models --param preset=tiny`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch

from artifacts.tables import write_table
from tasks.funnel import Funnel
from tasks.job import Job
from tasks.language_models.opening import open_model
from tasks.language_models.settings import StandIn
from tasks.problem import Problem, from_table
from tasks.rendering import parse_completion
from tasks.reward_models.classifiers import HELPFUL, SAFETY, fit, load, logged
from tasks.reward_models.preference_data import (
    Labelled,
    Pair,
    Pairs,
    Response,
    general_problems,
    held_out_problems,
    length_gap,
    model_judge,
    preference_pairs,
    rubric_judge,
    safety_labels,
)
from tasks.reward_models.stage import RewardModelsConfig
from tasks.rewards.preference_models import PreferenceModel, helpful_input, keep_score_range
from tasks.rollout.sampling import sample_problems
from tasks.rollout.text import open_sampler
from tasks.tables import METRICS, PREFERENCES

_FEWEST = 8
"""Rows that a reward model needs at least."""


def run(config: RewardModelsConfig, job: Job) -> None:
    """Leaves `helpful/`, `safety/`, `preferences.parquet` and `metrics.parquet`.

    Raises:
        ValueError: no general prompts, or too few pairs or labels came out of the sampling.
        StopRequested: asked to stop; finished shards and checkpoints are kept.
    """
    problems = general_problems(
        from_table(job.inputs["problems"].table("problems")), config.prompts, config.seed
    )
    model = None if isinstance(config.judge, StandIn) else open_model(config.judge, job, {})
    responses = sample_responses(config, job, problems)
    held_out = held_out_problems(problems, config.seed)
    judge = model_judge(model) if model else rubric_judge
    pairs = preference_pairs(responses, config.judgments_per_pair, config.min_margin, config.seed, judge)
    labels = safety_labels(responses)
    if model:
        job.summary(**model.summary("judge"))
        model.close()
    _leave_funnel(job, responses, pairs, labels)
    _require_enough(pairs.kept, labels, held_out)

    write_table(job.draft / "preferences.parquet", _preference_rows(pairs.kept, labels), PREFERENCES)
    fit(config, job)
    helpful = load(job, HELPFUL)
    logits = _training_logits(helpful, [p for p in pairs.kept if p.problem.id not in held_out])
    keep_score_range(job.draft / HELPFUL, logits.mean(), logits.std().clamp(min=1e-3))
    scores = {"helpful_held_out_accuracy": _pair_accuracy(helpful, pairs.kept, held_out)}
    del helpful
    scores["safety_held_out_accuracy"] = _label_accuracy(load(job, SAFETY), labels, held_out)
    write_table(job.draft / "metrics.parquet", _metrics(job, scores), METRICS)
    job.summary(
        responses=len(responses), without_answer=sum(r.answer is None for r in responses),
        pairs=len(pairs.kept), pairs_small_margin=pairs.small_margin,
        pairs_unbalanced_length=pairs.unbalanced_length, pairs_unjudged=pairs.unjudged,
        length_gap_words=round(length_gap(pairs.kept), 2),
        safety_labels=len(labels), safe_share=round(sum(x.safe for x in labels) / len(labels), 3),
        **{name: round(value, 3) for name, value in scores.items()},
    )  # fmt: skip


def _leave_funnel(job: Job, responses: Sequence[Response], pairs: Pairs, labels: Sequence[Labelled]) -> None:
    funnel, kept = Funnel(), len(pairs.kept)
    helpful = [r for r in responses if r.problem.verifier_args["set"] == "helpfulness"]
    missing = sum(not r.answer for r in helpful)
    funnel.add("final answers", len(helpful) - missing, {"without-answer": missing})
    dropped = {"judge-unreadable": pairs.unjudged, "small-margin": pairs.small_margin}
    funnel.add("preference pairs", kept + pairs.unbalanced_length, dropped)
    funnel.add("lengths balanced", kept, {"unbalanced-length": pairs.unbalanced_length})
    funnel.add("safety labels", len(labels), {"duplicate": len(responses) - len(helpful) - len(labels)})
    funnel.write(job.draft)


def sample_responses(config: RewardModelsConfig, job: Job, problems: Sequence[Problem]) -> list[Response]:
    """`samples_per_prompt` responses of the checkpoint to each problem."""
    checkpoint = job.inputs["checkpoint"]
    with closing(open_sampler(config.engine, checkpoint.path / "model")) as sampler:
        table = sample_problems(
            sampler, problems, config.template, config.sampling, config.samples_per_prompt, config.seed,
            checkpoint.ref.digest, job,
        )  # fmt: skip
    by_id = {p.id: p for p in problems}
    rows = table.select(["problem_id", "prompt", "completion"]).to_pylist()
    return [
        Response(
            by_id[row["problem_id"]],
            row["prompt"],
            row["completion"],
            parse_completion(row["completion"]).answer,
        )
        for row in rows
    ]


def _require_enough(pairs: Sequence[Pair], labels: Sequence[Labelled], held_out: frozenset[str]) -> None:
    training_pairs = sum(p.problem.id not in held_out for p in pairs)
    if training_pairs < _FEWEST:
        raise ValueError(
            f"{training_pairs} helpfulness pairs to train on (at least {_FEWEST} needed): the checkpoint's "
            "answers differ too little or miss the answer tags; raise prompts, samples_per_prompt or the "
            "temperature"
        )
    training = [x.safe for x in labels if x.problem.id not in held_out]
    if len(training) < _FEWEST or len(set(training)) < 2:
        raise ValueError(
            f"{sum(training)} safe and {len(training) - sum(training)} unsafe responses to train on (both "
            f"kinds and {_FEWEST} in all needed): raise prompts, samples_per_prompt or the temperature"
        )


def _training_logits(model: PreferenceModel, pairs: Sequence[Pair]) -> torch.Tensor:
    """Of the different answers that the model was trained on."""
    answers = dict.fromkeys(helpful_input(p.prompt, a) for p in pairs for a in (p.chosen, p.rejected))
    return model.logits(list(answers))


def _pair_accuracy(model: PreferenceModel, pairs: Sequence[Pair], held_out: frozenset[str]) -> float:
    tested = [p for p in pairs if p.problem.id in held_out]
    if not tested:
        return float("nan")
    chosen = model.logits([helpful_input(p.prompt, p.chosen) for p in tested])
    rejected = model.logits([helpful_input(p.prompt, p.rejected) for p in tested])
    return (chosen > rejected).float().mean().item()


def _label_accuracy(model: PreferenceModel, labels: Sequence[Labelled], held_out: frozenset[str]) -> float:
    tested = [x for x in labels if x.problem.id in held_out]
    if not tested:
        return float("nan")
    said = model.logits([(x.prompt, x.response) for x in tested]) > 0
    return (said == torch.tensor([x.safe for x in tested])).float().mean().item()


def _metrics(job: Job, scores: Mapping[str, float]) -> list[dict[str, Any]]:
    rows = [
        row | {"name": f"{name}_{row['name']}"} for name in (HELPFUL, SAFETY) for row in logged(job, name)
    ]
    last = max((row["step"] for row in rows), default=0)
    return rows + [{"step": last, "name": n, "value": v} for n, v in scores.items() if v == v]


def _preference_rows(pairs: Sequence[Pair], labels: Sequence[Labelled]) -> list[dict[str, Any]]:
    empty = dict.fromkeys(("chosen", "rejected", "response", "safe", "margin"))
    helpful = [
        {"problem_id": p.problem.id, "set": "helpfulness", "prompt": p.prompt, **empty, "chosen": p.chosen,
         "rejected": p.rejected, "margin": p.margin}
        for p in pairs
    ]  # fmt: skip
    safety = [
        {"problem_id": x.problem.id, "set": "safety", "prompt": x.prompt, **empty, "response": x.response,
         "safe": x.safe}
        for x in labels
    ]  # fmt: skip
    return helpful + safety
