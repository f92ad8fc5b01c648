"""Declares the stage `report`; `write.py` here does the work."""

from __future__ import annotations

from tasks.kinds import Kind
from tasks.settings import Settings
from tasks.stage import Stage


class ReportConfig(Settings):
    """The report has no settings: it shows what its inputs hold."""


REPORT = Stage(
    "report", 5, "Report", "Scores, curves, samples, cost and lineage of a whole run as one page.",
    "cpu", ReportConfig,
    {"problems": Kind.problems, "evaluation.*": Kind.evaluation, "checkpoint.*": Kind.checkpoint,
     "dataset.*": Kind.dataset, "reward_models.*": Kind.reward_models},
    Kind.report, "tasks.report.write:run",
    nodes={"report": "Report"},
)  # fmt: skip
