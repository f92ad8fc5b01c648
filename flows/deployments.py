"""prefect.yaml, from the stages and their pools.  `python -m flows.deployments > prefect.yaml`"""

from __future__ import annotations

from flows.checkout import CODE
from tasks.recipe import STAGES

_HEAD = """\
# One deployment per stage, and the pipeline: `python -m flows.deployments > prefect.yaml` writes this file.
# `prefect --no-prompt deploy --all` registers all of them; `r1 up` does so when the code changes. Flow runs
# work in the folder in which their worker was started, its own checkout: the work pools say so
# (flows/register.py), and the pull step keeps Prefect from adding the folder of whoever registered. A run
# whose checkout holds other code than `version` says is refused (flows/checkout.py).
name: r1
pull:
  - flows.checkout.stay: {}

deployments:
"""


def prefect_yaml() -> str:
    """The text of prefect.yaml."""
    lines = [_line("r1-full-pipeline", "flows.r1_full_pipeline", "cpu")]
    lines += [_line(stage.name, "flows.stage_flows", stage.pool) for stage in STAGES.values()]
    return _HEAD + "".join(lines)


def _line(name: str, module: str, pool: str) -> str:
    entry = f"{module}:{name.replace('-', '_')}"
    version = "{{ $" + CODE + " }}"
    return f'  - {{name: {name}, version: "{version}", entrypoint: "{entry}", work_pool: {{name: {pool}}}}}\n'


if __name__ == "__main__":
    print(prefect_yaml(), end="")
