"""The one interface of all language models: batches of chat requests in, answers out, in order.

`ModelBackend` is what a kind of model has to do; `ChatModel` puts the cache, the counts and the end of a lost
endpoint around it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from artifacts.keys import canonical_json
from tasks.job import StopRequested
from tasks.language_models.cache import AnswerCache

Value = TypeVar("Value")
_GIVE_UP = 32
"""Failures one after another, none for the request's own fault, after which the model counts as lost."""


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class ChatRequest:
    """One question to a model."""

    messages: tuple[Message, ...]
    seed: int = 0
    """Another seed asks for another answer to the same messages."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the messages were written from; rule stand-ins read it, language models do not see it."""


@dataclass(frozen=True)
class ChatAnswer:
    """What a model wrote; `text` is None where it could not be had, and `failure` says why."""

    text: str | None
    failure: str = ""
    """A few words to count by: `timeout`, `rate-limited`, `server-error`, `unreachable`, `refused-request`,
    `no-answer`."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ModelLost(RuntimeError):
    """The model cannot be asked at all; the message says why and what to do."""


class ModelBackend(Protocol):
    """A kind of model."""

    identity: Mapping[str, Any]
    """What decides its answers beside the request: address, model, sampling. JSON values, no secrets."""
    prices: tuple[float, float]
    """Per million prompt and completion tokens."""

    def stream(self, requests: Sequence[ChatRequest]) -> Generator[tuple[int, ChatAnswer], None, None]:
        """Each request's place and answer once, as they come in.

        Raises:
            ModelLost: no request can succeed (a wrong key, no such model).
            StopRequested: the job was asked to stop.
        """
        ...

    def close(self) -> None: ...


class ChatModel:
    """A model that remembers its answers and counts what they took."""

    def __init__(self, backend: ModelBackend, cache: AnswerCache, should_stop: Callable[[], bool]) -> None:
        self._backend, self._cache, self._should_stop = backend, cache, should_stop
        self._counts: Counter[str] = Counter()
        self._failed_in_a_row = 0

    def answer(
        self, requests: Sequence[ChatRequest], progress: Callable[[int, int], None] | None = None
    ) -> list[ChatAnswer]:
        """One answer for each request, in order. Equal requests are asked once; failures are not remembered.

        Raises:
            ModelLost: nothing can be asked any more; every answer that came is kept.
            StopRequested: the job was asked to stop; same.
        """
        keys = [self.key(request) for request in requests]
        places = dict(zip(keys, range(len(keys)), strict=True))
        found = {key: ChatAnswer(**known) for key in places if (known := self._cache.get(key))}
        self._counts["from_cache"] += sum(key in found for key in keys)
        missing = [key for key in places if key not in found]
        with closing(self._backend.stream([requests[places[key]] for key in missing])) as stream:
            for place, answer in stream:
                found[missing[place]] = answer
                self._note(missing[place], answer)
                if progress:
                    progress(len(found), len(places))
                if self._should_stop() and len(found) < len(places):
                    raise StopRequested(f"{len(found)} of {len(places)} answers are in; they are kept")
        answers = [found[key] for key in keys]
        self._count(answers)
        return answers

    def key(self, request: ChatRequest) -> str:
        """Hash of everything that decides the answer."""
        asked = [[message.role, message.content] for message in request.messages]
        document = [dict(self._backend.identity), asked, request.seed]
        return hashlib.sha256(canonical_json(document)).hexdigest()

    def taken(self) -> dict[str, int]:
        """What was asked since the last call: requests, tokens, failures by reason."""
        counts, self._counts = dict(self._counts), Counter()
        return counts

    def summary(self, role: str, counts: Mapping[str, int] | None = None) -> dict[str, float | int]:
        """For the manifest: `judge_requests`, `judge_failed_timeout`, ...; of `counts`, or of what was asked
        since `taken`."""
        counted = Counter(self._counts if counts is None else counts)
        shown: dict[str, float | int] = {name: counted[name] for name in sorted(counted)}
        if any(self._backend.prices):
            tokens = counted["prompt_tokens"], counted["completion_tokens"]
            cost = sum(n * price for n, price in zip(tokens, self._backend.prices, strict=True)) / 1e6
            shown["cost"] = round(cost, 4)
        return {f"{role}_{name}": value for name, value in shown.items()}

    def close(self) -> None:
        self._backend.close()
        self._cache.close()

    def _note(self, key: str, answer: ChatAnswer) -> None:
        if answer.text is not None:
            self._failed_in_a_row = 0
            tokens = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
            self._cache.put(key, {"text": answer.text, **tokens})
        elif answer.failure != "refused-request":
            self._failed_in_a_row += 1
        if self._failed_in_a_row >= _GIVE_UP:
            where = self._backend.identity.get("url", "the model")
            raise ModelLost(
                f"{where} failed {_GIVE_UP} requests one after another (last: {answer.failure}): look at the "
                "server, then run again; every answer so far is kept"
            )

    def _count(self, answers: Sequence[ChatAnswer]) -> None:
        self._counts["requests"] += len(answers)
        for answer in answers:
            self._counts["prompt_tokens"] += answer.prompt_tokens
            self._counts["completion_tokens"] += answer.completion_tokens
            if answer.text is None:
                self._counts[f"failed_{answer.failure}"] += 1


class RuleModel:
    """A rule stand-in in a model's place: asks nobody, keeps nothing."""

    def __init__(self, rule: Callable[[ChatRequest], str]) -> None:
        self._rule = rule

    def answer(
        self, requests: Sequence[ChatRequest], progress: Callable[[int, int], None] | None = None
    ) -> list[ChatAnswer]:
        return [ChatAnswer(self._rule(request)) for request in requests]

    def taken(self) -> dict[str, int]:
        return {}

    def summary(self, role: str, counts: Mapping[str, int] | None = None) -> dict[str, float | int]:
        return {}

    def close(self) -> None:
        pass


Asks = ChatModel | RuleModel
"""What a stage holds."""


def read_answers(
    model: Asks, requests: Sequence[ChatRequest], read: Callable[[str], Value | None], attempts: int = 3
) -> list[tuple[Value | None, str]]:
    """What `read` makes of the answer to each request, or None and the reason.

    An answer that `read` cannot use is asked for again under another seed, `attempts` times in all; then the
    reason is `unreadable`. Raises as `ChatModel.answer`.
    """
    found: list[tuple[Value | None, str]] = [(None, "unreadable")] * len(requests)
    left = list(range(len(requests)))
    for attempt in range(attempts):
        asked = [replace(requests[i], seed=requests[i].seed + attempt) for i in left]
        unread = []
        for i, answer in zip(left, model.answer(asked), strict=True):
            value = None if answer.text is None else read(visible(answer.text))
            found[i] = value, answer.failure or ("" if value is not None else "unreadable")
            if answer.text is not None and value is None:
                unread.append(i)
        left = unread
    return found


def visible(text: str) -> str:
    """An answer without the thinking that reasoning models write before it."""
    return text.rpartition("</think>")[2].strip()


def quoted(text: str, name: str) -> str:
    """A stranger's text between `<NAME>` tags, which it cannot close itself."""
    return f"<{name}>\n{text.replace(f'</{name}', f'< /{name}').strip()}\n</{name}>"


def sections(text: str, *names: str) -> dict[str, str] | None:
    """The texts between `<NAME>` and `</NAME>` of an answer; None where one is missing, empty or not single.

    Linear in the text, which a model wrote.
    """
    found = {}
    for name in names:
        start, end = f"<{name}>", f"</{name}>"
        if text.count(start) != 1 or text.count(end) != 1:
            return None
        body = text.partition(start)[2].partition(end)[0].strip()
        if not body:
            return None
        found[name] = body
    return found
