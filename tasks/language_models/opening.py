"""From a setting to a model that can be asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib import import_module

from artifacts.keys import canonical_json
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from tasks.job import Job
from tasks.kinds import Kind
from tasks.language_models.cache import AnswerCache
from tasks.language_models.chat import Asks, ChatModel, ChatRequest, ModelBackend, RuleModel
from tasks.language_models.settings import Checkpoint, Endpoint, StandIn

Rules = Mapping[str, Callable[[ChatRequest], str]]


def open_model(settings: Endpoint | Checkpoint | StandIn, job: Job, rules: Rules) -> Asks | None:
    """The model of a setting; None for `none`. Nothing is asked and no engine starts before the first batch.

    Answers are kept in the folder `answers` beside the work folders, so they outlive the job: a stage with a
    changed filter asks nothing anew.

    Raises:
        ModelLost: the API key is not in the environment.
        NotFound: the store has no such checkpoint.
    """
    if isinstance(settings, StandIn):
        return None if settings.name == "none" else RuleModel(rules[settings.name])
    backend: ModelBackend
    if isinstance(settings, Endpoint):
        from tasks.language_models.endpoint import EndpointModel

        backend = EndpointModel(settings, job.stop)
    else:
        # By name, as the registry of engines does it: who asks an endpoint (`r1 serve`) needs no engine.
        stored = import_module("tasks.language_models.stored")
        if settings.artifact:
            ref = Ref(kind=Kind.checkpoint, digest=settings.artifact)
            path = ArtifactStore.open().fetch(ref)
        else:
            ref, path = job.inputs["checkpoint"].ref, job.inputs["checkpoint"].path
        backend = stored.StoredModel(settings, path / "model", ref.digest, job)
    name = hashlib.sha256(canonical_json(dict(backend.identity))).hexdigest()[:16]
    cache = AnswerCache(job.work_root / "answers" / f"{name}.jsonl")
    return ChatModel(backend, cache, job.should_stop)
