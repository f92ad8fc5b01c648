"""One engine for all checkpoints of one architecture that a job samples from.

A vLLM engine takes 10 s and more to start, its weights are swapped in well under a second. Nine evaluations
in one job start it once.
"""

from __future__ import annotations

import filecmp
import json
import logging
from pathlib import Path
from typing import Any

from tasks.job import Job
from tasks.rollout.engine import Engine, SampledModel
from tasks.rollout.engines import open_engine
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.text import TextSampler
from tasks.tokenizer import Codec

log = logging.getLogger(__name__)

_PLACE = "sampler"
_PROBE = Sampling(max_new_tokens=8)
_UNSHAPED = ("_name_or_path", "transformers_version")
"""What `config.json` says beside the architecture."""


class KeptEngine:
    """An open engine and the folder whose weights it has."""

    def __init__(self, settings: EngineSettings, model: SampledModel) -> None:
        self.shape = shape(settings, model)
        self.engine: Engine = open_engine(settings, model)
        self._folder, self._own_device = model.folder, settings.entry.own_device

    def swap(self, folder: Path) -> bool:
        """Take the weights of `folder`; tell whether the engine's output followed them.

        Two folders with the same bytes must give the same log-probabilities, two others must not: an engine
        that kept its old weights (a cached layer, a name that was skipped) would report one checkpoint's
        scores as another's.
        """
        before = self._probe()
        self.engine.load(folder)
        equal, self._folder = _same_weights(self._folder, folder), folder
        return (self._probe() == before) == equal

    def close(self) -> None:
        """For the end of the process, with which the memory of an engine in it is freed (`Engine.close`)."""
        if self._own_device:
            self.engine.close()

    def _probe(self) -> list[float]:
        """Log-probabilities of what one seed draws."""
        drawn = self.engine.generate([[1, 2, 3, 4]], _PROBE, [[0]], logprobs=True)
        return [p for completion in drawn for p in completion.logprobs or []]


def kept_sampler(settings: EngineSettings, folder: Path, job: Job) -> TextSampler:
    """A sampler of the model in `folder`, with the job's open engine if that has this architecture.

    The engine is the job's until its process ends. Raises as `open_engine`.
    """
    codec = Codec.of(folder)
    model = SampledModel(folder, codec.end_tokens)
    kept = job.kept.get(_PLACE)
    if kept is not None and (kept.shape != shape(settings, model) or not kept.swap(folder)):
        log.info("a new engine for %s", folder)
        job.kept.pop(_PLACE).engine.close()
        kept = None
    if kept is None:
        kept = job.kept[_PLACE] = KeptEngine(settings, model)
    return TextSampler(kept.engine, codec, settings.entry.in_flight)


def shape(settings: EngineSettings, model: SampledModel) -> tuple[Any, ...]:
    """What two checkpoints must share so that one engine serves both."""
    config = json.loads((model.folder / "config.json").read_text())
    for name in _UNSHAPED:
        config.pop(name, None)
    return settings, json.dumps(config, sort_keys=True), model.end_tokens


def _same_weights(one: Path, other: Path) -> bool:
    """Whether both folders hold the same bytes; differing files are read only up to the first difference."""
    names = [sorted(path.name for path in folder.glob("*.safetensors")) for folder in (one, other)]
    return names[0] == names[1] and all(filecmp.cmp(one / n, other / n, shallow=False) for n in names[0])
