"""A rollout that is generated while the one before it is learned from (`rollout_ahead`).

The engine has the weights with which the rollout before was begun, so this one is as many updates old as a
rollout has mini-batches: `staleness` in the log. A checkpoint holds it, because a run that resumes there no
longer has those weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.rollout.engine import Completion


@dataclass(frozen=True)
class RolloutAhead:
    """One process's share of a rollout that is under way."""

    step: int
    """At which it is learned from."""
    prompts: list[list[int]]
    wait: Callable[[], list[Completion]]

    def completions(self, step: int, prompts: Sequence[Sequence[int]]) -> list[Completion]:
        """The completions, which are asked for at `step`.

        Raises:
            RuntimeError: other prompts were expected than are asked now.
        """
        if step != self.step or list(prompts) != self.prompts:
            raise RuntimeError(
                f"the rollout generated ahead for step {self.step} is not that of step {step}: set "
                "rollout_ahead to false"
            )
        return self.wait()

    def save(self, checkpoint: Path, process: int) -> None:
        """Write it into a checkpoint's folder, once it is generated."""
        rows = [asdict(completion) for completion in self.wait()]
        document = {"step": self.step, "prompts": self.prompts, "completions": rows}
        _file(checkpoint, process).write_text(json.dumps(document))

    @classmethod
    def load(cls, checkpoint: Path, process: int) -> RolloutAhead | None:
        """That of a checkpoint; None where it holds none."""
        if not _file(checkpoint, process).exists():
            return None
        document = json.loads(_file(checkpoint, process).read_text())
        done = [Completion(**row) for row in document["completions"]]
        return cls(document["step"], document["prompts"], lambda: done)


def _file(checkpoint: Path, process: int) -> Path:
    return checkpoint / f"ahead-{process}.json"
