"""The report stage: stage table, the paper's claims checked, curves, curation, samples, cost and lineage.

    r1 run --preset tiny        ends with it;  report.html is one file that needs nothing else

Paper: Table 3 (every stage), Fig. 1 and C.2 (curves), Table 5 (curation), Table 7 (cost), F.1 (students).
"""

from __future__ import annotations

from tasks.job import Job
from tasks.report.claims import CLAIMS_FILE, ClaimVerdict, claims_to_json
from tasks.report.data import load_run
from tasks.report.figures import draw_all
from tasks.report.pages import html_page, markdown_page
from tasks.report.stage import ReportConfig
from tasks.report.tables import STAGES_FILE, rows_to_json


def run(config: ReportConfig, job: Job) -> None:
    """Write the two pages, the figures, `stages.json` and `claims.json` into the draft."""
    job.progress(0, 2, "reading evaluations and manifests")
    loaded = load_run(job.inputs)
    job.progress(1, 2, "drawing")
    drawn = draw_all(loaded)
    for figure in drawn:
        (job.draft / f"{figure.name}.svg").write_text(figure.svg)
    (job.draft / "report.html").write_text(html_page(loaded, drawn))
    (job.draft / "report.md").write_text(markdown_page(loaded, drawn))
    (job.draft / STAGES_FILE).write_text(rows_to_json(loaded.rows))
    (job.draft / CLAIMS_FILE).write_text(claims_to_json(loaded.claims))
    verdicts = [finding.verdict for finding in loaded.claims]
    job.summary(
        checkpoints=len(loaded.rows),
        claims=len(verdicts),
        reproduced=verdicts.count(ClaimVerdict.reproduces),
        inside_the_noise=verdicts.count(ClaimVerdict.noise),
        not_reproduced=verdicts.count(ClaimVerdict.does_not),
        job_seconds=round(loaded.total_cost.seconds, 1),
    )
    job.progress(2, 2, "report.html")
