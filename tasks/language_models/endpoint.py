"""An OpenAI-compatible server as a `ModelBackend`, retried with back-off and limited in its rate.

What may pass is asked again: a timeout, a broken connection, 429, 408, 409, 5xx (`Retry-After` is followed)
and an answer that is no chat completion. After `attempts` the request counts as failed under its reason. A
refused key, an unknown model or a redirect ends the job: no request could succeed. The key is in no message.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import openai
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from tasks.job import StopRequested
from tasks.language_models.chat import ChatAnswer, ChatRequest, ModelLost
from tasks.language_models.settings import Endpoint, host_of, is_loopback

log = logging.getLogger(__name__)

_LONGEST_WAIT = 120.0
"""Seconds between two attempts at most, whatever `Retry-After` says."""
_BACK_OFF = wait_random_exponential(multiplier=0.5, max=60)
_LOST = {
    401: "refuses the API key",
    403: "does not allow this",
    404: "does not know the address or the model",
}


class _Transient(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, detail: str, wait: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.wait = reason, wait


class _Refused(Exception):
    """The server answers that it will not answer this request."""


class EndpointModel:
    """`ModelBackend` of an `Endpoint`."""

    def __init__(self, settings: Endpoint, stop: threading.Event) -> None:
        """Raises ModelLost where the environment variable with the key is not set."""
        self._settings, self._stop = settings, stop
        self.identity: Mapping[str, Any] = {
            "url": settings.url,
            "model": settings.model,
            "sampling": settings.sampling.model_dump(),
        }
        self.prices = settings.price_prompt, settings.price_completion
        self._key = os.environ.get(settings.key, "") if settings.key else ""
        if settings.key and not self._key:
            raise ModelLost(f"the environment variable {settings.key} is not set: put the API key of "
                            f"{settings.url} there, and restart the workers by `r1 down`")  # fmt: skip
        for name in ("openai", "httpx", "httpx2", "httpcore2"):  # a line a request, and at DEBUG its body
            logging.getLogger(name).setLevel(logging.WARNING)
        # A redirect could send prompts and key elsewhere. A proxy of the environment is for other machines.
        self._http = openai.DefaultHttpxClient(
            follow_redirects=False, trust_env=not is_loopback(host_of(settings.url))
        )
        self._client = openai.OpenAI(
            base_url=settings.url, api_key=self._key or "none", organization="", project="",
            timeout=settings.timeout_seconds, max_retries=0, http_client=self._http,
        )  # fmt: skip
        self._pace = _Pace(settings.requests_per_minute)

    def stream(self, requests: Sequence[ChatRequest]) -> Generator[tuple[int, ChatAnswer], None, None]:
        """See `ModelBackend.stream`."""
        threads = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="endpoint")
        try:
            places = {threads.submit(self._answer, request): i for i, request in enumerate(requests)}
            for future in as_completed(places):
                yield places.pop(future), future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self._client.close()

    def _answer(self, request: ChatRequest) -> ChatAnswer:
        retrying = Retrying(
            stop=stop_after_attempt(self._settings.attempts),
            wait=_waiting,
            retry=retry_if_exception_type(_Transient),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(self._ask, request)
        except _Transient as failure:
            log.warning("a request failed after %d attempts: %s", self._settings.attempts, failure)
            return ChatAnswer(None, failure.reason)
        except _Refused as refusal:
            log.warning("a request was refused: %s", refusal)
            return ChatAnswer(None, "refused-request")

    def _ask(self, request: ChatRequest) -> ChatAnswer:
        self._sleep(self._pace.delay())
        sampling = self._settings.sampling
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=self._settings.model,
                messages=[{"role": m.role, "content": m.content} for m in request.messages],  # type: ignore[misc]
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=request.seed,
            )
            return _read(raw.http_response.content)
        except openai.APITimeoutError:
            raise _Transient("timeout", f"no answer in {self._settings.timeout_seconds} s") from None
        except openai.APIConnectionError as error:
            raise _Transient("unreachable", self._shown(error.__cause__ or error)) from None
        except openai.APIStatusError as error:
            raise self._status(error) from None

    def _status(self, error: openai.APIStatusError) -> Exception:
        code, detail = error.status_code, self._shown(error)
        if code in _LOST or 300 <= code < 400:
            what = _LOST.get(code, "answers with a redirect, which is not followed")
            key = f" (the one in {self._settings.key})" if code == 401 and self._settings.key else ""
            model = f", model {self._settings.model}"
            return ModelLost(f"{self._settings.url}{model}: it {what}{key}, status {code}: fix the settings")
        wait = _retry_after(error.response.headers.get("retry-after"))
        if code == 429:
            return _Transient("rate-limited", detail, wait)
        if code in (408, 409) or code >= 500:
            return _Transient("server-error", detail, wait)
        return _Refused(detail)

    def _shown(self, error: object) -> str:
        """One line of a stranger's text in which the key cannot stand."""
        text = " ".join(str(error).split())
        return (text.replace(self._key, "***") if self._key else text)[:300]

    def _sleep(self, seconds: float) -> None:
        """Raises StopRequested once the job is asked to stop."""
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise StopRequested("it was asking a language model; the answers so far are kept")


class _Pace:
    """Spreads requests evenly over time, for all threads."""

    def __init__(self, per_minute: int) -> None:
        self._between = 60 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def delay(self) -> float:
        """Seconds that this request has to wait; its turn is taken."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._between
        return turn - now


def _read(content: bytes) -> ChatAnswer:
    """The answer of a chat completion. Raises _Transient where `content` is none."""
    try:
        document: dict[str, Any] = json.loads(content)
        text = document["choices"][0]["message"]["content"]
        usage = document.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _Transient("no-answer", f"no chat completion ({type(error).__name__})") from None
    if not isinstance(text, str) or not text.strip():
        raise _Transient("no-answer", "an empty answer")
    return ChatAnswer(text, "", *tokens)


def _waiting(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.wait if isinstance(failure, _Transient) else 0.0
    return min(_LONGEST_WAIT, max(asked, _BACK_OFF(state)))


def _retry_after(value: str | None) -> float:
    """Seconds of a `Retry-After` header: a number, or a date."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value)) if float(value) < 1e9 else _LONGEST_WAIT
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
