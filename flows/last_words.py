"""The line that says why: out of a command's output, a service's log, or the state of a run. No Prefect."""

from __future__ import annotations

import re

from flows import paths

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BOX_EDGE = re.compile(r"^\s*[╭┌┏╰└┗][─━\s╮┐┓╯┘┛]*.*$")
_BOX_SIDE = re.compile(r"^\s*[│┃|]?\s?|\s*[│┃]\s*$")
_TELLING = re.compile(
    r"(?i)\b\w*(error|exception)\b|failed|refused|denied|not found|no space|in use|cannot|could not|unable|"
    r"unknown|invalid|missing"
)
_RUN_DEATHS = (
    # Prefect's words for the end of a flow run's process (3.7: `infrastructure_exit_codes`, `states`).
    (re.compile(r"status code:? -9\b|SIGKILL|status code:? 137\b"), "its process was killed (SIGKILL)"),
    (re.compile(r"status code:? -15\b|SIGTERM|termination signal"), "its process was stopped (SIGTERM)"),
    (re.compile(r"system exit call"), "its process ended before the flow did"),
    (re.compile(r"interrupt signal"), "its process was interrupted (SIGINT)"),
    (re.compile(r"cancelled by the runtime"), "its process was cancelled"),
)
_ENDED_WITH = re.compile(r"status code:? (-?\d+)")
_FRAME = re.compile(r"^Flow run encountered an exception: ((JobFailed|StageFailed): )?")
_OUT_OF_USER_CODE = re.compile(r"^(Execution was interrupted by an unexpected exception|Request .* failed): ")


def last_words(output: str, failed: bool = True) -> str:
    """The telling line of what a program wrote; empty where it wrote nothing.

    That is the text of a frame, if the output ends with one, and otherwise its last line that speaks of an
    error, or simply its last line (not of a program of which it is not known that it `failed`).
    """
    lines = [_ESCAPE.sub("", line).rstrip() for line in output.splitlines()]
    lines = [line for line in lines if line.strip()]
    if lines and _BOX_EDGE.match(lines[-1]):
        framed = []
        for line in reversed(lines[:-1]):
            if _BOX_EDGE.match(line):
                break
            framed.append(_BOX_SIDE.sub("", line).strip())
        text = " ".join(reversed(framed)).strip()
        if text:
            return text
    plain = [_BOX_SIDE.sub("", line).strip() for line in lines if not _BOX_EDGE.match(line)]
    plain = [line for line in plain if line]
    telling = [line for line in plain if _TELLING.search(line)]
    return (telling or (plain if failed else []) or [""])[-1]


def plain_reason(message: str) -> str:
    """Why a run ended, in one line, without the words that Prefect puts around it."""
    text = " ".join(_FRAME.sub("", message).split())
    if text != " ".join(message.split()):
        return text  # the exception's own words
    for pattern, words in _RUN_DEATHS:
        if pattern.search(text):
            return words
    if found := _ENDED_WITH.search(text):
        return f"its process ended with code {found[1]} ({paths.log('workers')} has its output)"
    return _OUT_OF_USER_CODE.sub("", text)
