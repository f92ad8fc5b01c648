"""A checkpoint of the store as a `ModelBackend`, through the job's rollout engine."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tasks.job import Job
from tasks.language_models.chat import ChatAnswer, ChatRequest
from tasks.language_models.settings import Checkpoint
from tasks.rollout.engine import derived_seed
from tasks.rollout.kept import kept_sampler


class StoredModel:
    """`ModelBackend` of a `Checkpoint`. The messages become one question of its template."""

    prices = 0.0, 0.0

    def __init__(self, settings: Checkpoint, folder: Path, digest: str, job: Job) -> None:
        self._settings, self._folder, self._job = settings, folder, job
        self.identity: Mapping[str, Any] = {
            "checkpoint": digest,
            "engine": settings.engine.name,
            "template": settings.template,
            "sampling": settings.sampling.model_dump(),
        }

    def stream(self, requests: Sequence[ChatRequest]) -> Generator[tuple[int, ChatAnswer], None, None]:
        """See `ModelBackend.stream`."""
        if not requests:
            return
        # Taken anew each time: the job's engine may have another checkpoint's weights by now.
        sampler = kept_sampler(self._settings.engine, self._folder, self._job)
        questions = ["\n\n".join(m.content for m in request.messages) for request in requests]
        prompts = [sampler.prompt(self._settings.template, question) for question in questions]
        seeds = [
            derived_seed(request.seed, question)
            for request, question in zip(requests, questions, strict=True)
        ]
        with closing(sampler.stream(prompts, self._settings.sampling, seeds)) as written:
            for row, text in written:
                failure = "" if text.text.strip() else "no-answer"
                said = None if failure else text.text
                yield row, ChatAnswer(said, failure, text.prompt_tokens, text.completion_tokens)

    def close(self) -> None:
        """The job closes the engine."""
