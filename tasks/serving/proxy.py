"""The HTTP server that clients see: OpenAI's chat completions, with a key, and with risk control if wanted.

    GET  /v1/models
    POST /v1/chat/completions     `stream` too; thinking comes as `reasoning_content`

It asks the model server behind it and changes what passes: thinking is taken out of the answer
(`layout.py`), and a dialogue that the risk control flags is held back until it was reviewed. A retracted
answer has the finish reason `content_filter`; one that could not be reviewed is status 503. Everything else
is streamed as it comes. Only the fields of `ChatBody` are taken: others could bring in text that the risk
control does not see (tool descriptions, arguments of the chat template).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import httpx
from fastapi import Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from artifacts.checks import first_reason
from tasks.language_models.chat import Message
from tasks.serving.layout import AnswerPart, ThinkingSplitter, split
from tasks.serving.risk_control import ReviewFailed, RiskControl, retraction

_PATH = "/v1/chat/completions"
_ZERO = Annotated[float, Field(ge=0, le=0)]


class TextPart(BaseModel):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class ChatTurn(BaseModel):
    """A message; what clients send beside these two (`reasoning_content` of earlier answers) is dropped."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] = ""

    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class ChatBody(BaseModel):
    """What a client may ask, in the names of OpenAI's interface."""

    model_config = ConfigDict(extra="forbid")

    messages: Annotated[list[ChatTurn], Field(min_length=1)]
    model: str | None = None
    """Not looked at: one model is served."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    n: Literal[1] | None = None
    user: str | None = None
    """Not looked at."""
    presence_penalty: _ZERO | None = None
    frequency_penalty: _ZERO | None = None

    def upstream(self, model: str, plain: Callable[[str], str], stream: bool) -> dict[str, Any]:
        """The same question to the model server."""
        asked = self.model_dump(include={"temperature", "top_p", "seed", "stop"}, exclude_none=True)
        if limit := self.max_completion_tokens or self.max_tokens:
            asked["max_tokens"] = limit
        turns = [turn.message() for turn in self.messages]
        asked["messages"] = [{"role": turn.role, "content": plain(turn.content)} for turn in turns]
        if stream:
            asked["stream"] = True
            if self.stream_options:
                asked["stream_options"] = self.stream_options
        return {"model": model, **asked}


class Refusal(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind

    def document(self) -> dict[str, Any]:
        """In OpenAI's form."""
        return {"error": {"message": str(self), "type": self.kind, "code": self.status}}


@dataclass(frozen=True)
class Upstream:
    """The model server as the proxy asks it."""

    client: httpx.AsyncClient
    called: str
    """The model as the server calls it."""
    opens_thinking: bool
    """Whether its prompts end in `<think>`."""
    takes_thinking_out: bool
    """Whether it has a reasoning parser."""
    plain: Callable[[str], str] = str

    async def complete(self, body: ChatBody) -> dict[str, Any]:
        """The whole answer, taken apart. Raises Refusal."""
        asked = body.upstream(self.called, self.plain, stream=False)
        try:
            answer = await self.client.post(_PATH, json=asked)
        except httpx.TransportError as error:
            raise _gone(error) from None
        _require_success(answer)
        completion = _document(answer.text)
        if not completion.get("choices"):
            raise _failed(answer.text)
        choice = completion["choices"][0]
        choice["message"] = {"role": "assistant", **_fields(self._parted(choice["message"]), whole=True)}
        return completion

    async def stream(self, body: ChatBody) -> AsyncGenerator[dict[str, Any], None]:
        """Chunks as they come, taken apart. Raises Refusal."""
        asked = body.upstream(self.called, self.plain, stream=True)
        splitter = None if self.takes_thinking_out else ThinkingSplitter(self.opens_thinking)
        try:
            async with self.client.stream("POST", _PATH, json=asked) as answer:
                if answer.is_error:
                    await answer.aread()
                _require_success(answer)
                async for line in answer.aiter_lines():
                    event = line.removeprefix("data:").strip()
                    if line.startswith("data:") and event != "[DONE]":
                        for chunk in _chunks(_document(event), splitter):
                            yield chunk
        except httpx.TransportError as error:
            raise _gone(error) from None

    def _parted(self, message: Mapping[str, Any]) -> AnswerPart:
        content, thinking = message.get("content") or "", _thinking(message)
        if self.takes_thinking_out or thinking:
            return AnswerPart(thinking.strip(), content.lstrip())
        return split(content, self.opens_thinking)


def _thinking(message: Mapping[str, Any]) -> str:
    """Under the name that vLLM has for it since 0.11, or the older one."""
    return message.get("reasoning") or message.get("reasoning_content") or ""


def _fields(part: AnswerPart, whole: bool = False) -> dict[str, str]:
    """Of a message or a delta; a whole message has content even where that is empty."""
    named = {"reasoning_content": part.reasoning, "content": part.content}
    return {name: text for name, text in named.items() if text or (whole and name == "content")}


def _chunks(chunk: dict[str, Any], splitter: ThinkingSplitter | None) -> Iterator[dict[str, Any]]:
    """A chunk of the model server as one or two of ours, or none where its text is held back.

    Raises Refusal where it is an error.
    """
    if "error" in chunk:
        raise _failed(str(chunk["error"]))
    if not chunk.get("choices"):  # vLLM's chunk of the usage
        yield chunk
        return
    choice = chunk["choices"][0]
    delta, finished = choice.get("delta") or {}, choice.get("finish_reason")
    role = {"role": delta["role"]} if delta.get("role") else {}
    parts = [AnswerPart(_thinking(delta), delta.get("content") or "")]
    if splitter is not None and not parts[0].reasoning:
        parts = [splitter.feed(parts[0].content)] + ([splitter.finish()] if finished else [])
    for fields in [role, *map(_fields, parts)]:
        if fields:
            same = {name: value for name, value in chunk.items() if name != "usage"}
            yield {**same, "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}
    if finished:
        yield {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finished}]}


def _require_success(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    # What the server says of a bad request is meant for who asked; its own faults are in its log.
    status = answer.status_code if 400 <= answer.status_code < 500 else 502
    kind = "invalid_request_error" if status < 500 else "model_error"
    raise Refusal(status, kind, f"the model server answered {answer.status_code}: {_brief(answer.text)}")


def _gone(error: Exception) -> Refusal:
    return Refusal(502, "model_error", f"the model server does not answer ({type(error).__name__})")


def _failed(said: str) -> Refusal:
    return Refusal(502, "model_error", f"the model server failed: {_brief(said)}")


def _document(text: str) -> dict[str, Any]:
    """The JSON object of an answer or event. Transformers puts errors into one without escaping them."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"error": text}


def _brief(text: str) -> str:
    return " ".join(text.split())[:500]


@dataclass
class Proxy:
    """What answers the requests of clients."""

    name: str
    """What clients call the model."""
    upstream: Upstream
    key: str
    risk: RiskControl | None = None
    note: Callable[[str], None] = lambda text: None
    """Told of every flagged dialogue and what became of it."""
    reviews_at_once: int = 1
    _created: int = field(default_factory=lambda: int(time.time()))

    def app(self) -> FastAPI:
        """The ASGI application."""
        self._reviewing = asyncio.Semaphore(self.reviews_at_once)
        key = [Depends(self._require_key)]
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, dependencies=key)

        @app.exception_handler(Refusal)
        async def refused(_: Request, refusal: Refusal) -> Response:
            return JSONResponse(refusal.document(), refusal.status)

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            model = {"id": self.name, "object": "model", "created": self._created, "owned_by": "r1"}
            return {"object": "list", "data": [model]}

        @app.post(_PATH)
        async def chat(request: Request) -> Response:
            try:
                body = ChatBody.model_validate_json(await request.body())
            except ValidationError as error:
                raise Refusal(400, "invalid_request_error", first_reason(error)) from None
            return await self._answer(body)

        return app

    async def _require_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if not secrets.compare_digest(given, f"Bearer {self.key}".encode()):
            said = "send the key of this installation as `Authorization: Bearer KEY`"
            raise Refusal(401, "invalid_api_key", said)

    async def _answer(self, body: ChatBody) -> Response:
        dialogue = [turn.message() for turn in body.messages]
        keyword = self.risk.flags(dialogue) if self.risk else ""
        if self.risk and keyword:
            completion = await self._reviewed(self.risk, body, dialogue, keyword)
        elif body.stream:
            chunks = self.upstream.stream(body)
            # The first chunk is awaited here, so that a refusal of the model server keeps its status.
            first = await anext(chunks, None)
            return _events(self._passed(first, chunks))
        else:
            completion = await self.upstream.complete(body)
        completion["model"] = self.name
        return _events(_as_events(completion)) if body.stream else JSONResponse(completion)

    async def _reviewed(
        self, risk: RiskControl, body: ChatBody, dialogue: list[Message], keyword: str
    ) -> dict[str, Any]:
        """The completion of a flagged dialogue, or what is shown in its place. Raises Refusal."""
        completion = await self.upstream.complete(body)
        choice = completion["choices"][0]
        parts = (choice["message"].get(name) for name in ("reasoning_content", "content"))
        try:
            async with self._reviewing:
                found = await run_in_threadpool(risk.review, dialogue, "\n\n".join(filter(None, parts)))
        except ReviewFailed as error:
            self.note(f"flagged ({keyword}), not reviewed and not shown: {error}")
            raise Refusal(
                503, "risk_control", f"the answer is not shown, as it could not be reviewed: {error}"
            ) from None
        if found.violates:
            numbers = ", ".join(map(str, found.rules))
            self.note(f"flagged ({keyword}), retracted by standard {numbers}: {found.reason}")
            shown = {"role": "assistant", "content": retraction(dialogue)}
            choice.update(message=shown, finish_reason="content_filter")
        else:
            self.note(f"flagged ({keyword}), reviewed and shown")
        return completion

    async def _passed(
        self, first: dict[str, Any] | None, chunks: AsyncGenerator[dict[str, Any], None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Closing it closes the connection to the model server, which then stops writing."""
        async with aclosing(chunks):
            try:
                if first is not None:
                    yield {**first, "model": self.name}
                async for chunk in chunks:
                    yield {**chunk, "model": self.name}
            except Refusal as refusal:  # the status has been sent already
                yield refusal.document()


async def _as_events(completion: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """A finished completion as the chunks of a stream."""
    choice = completion["choices"][0]
    same = {name: completion[name] for name in ("id", "created", "model")}
    same["object"] = "chat.completion.chunk"
    yield {**same, "choices": [{"index": 0, "delta": choice["message"], "finish_reason": None}]}
    last = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    yield {**same, "choices": [last], "usage": completion.get("usage")}


def _events(chunks: AsyncGenerator[dict[str, Any], None]) -> StreamingResponse:
    async def sent() -> AsyncGenerator[str, None]:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(sent(), media_type="text/event-stream")
