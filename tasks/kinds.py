"""The kinds of artifacts that stages make and ask for. The store itself compares them as plain names."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What an artifact holds; the layouts are listed in `docs/artifacts.md`."""

    problems = "problems"
    """`problems.parquet`, `rejected.parquet`"""
    checkpoint = "checkpoint"
    """`model/` (a Hugging Face folder), and what its training left: `metrics.parquet`, `samples.parquet` and,
    where RL evaluated meanwhile, `evaluation_metrics.parquet` and `evaluation_samples.parquet`"""
    dataset = "dataset"
    """`sft.parquet`, `samples.parquet`, `rejected.parquet`"""
    reward_models = "reward_models"
    """`helpful/`, `safety/` (sequence classifiers with one output), `preferences.parquet`,
    `metrics.parquet`"""
    evaluation = "evaluation"
    """`samples.parquet`, `scores.parquet`"""
    report = "report"
    """`report.html`, `report.md`, the figures as SVG"""
    review = "review"
    """`review.json`: what a person decided on a data set (`tasks.review`)"""
