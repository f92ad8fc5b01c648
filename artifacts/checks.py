"""What the store accepts from files that somebody else may have written.

Every manifest, key entry, ref and file path passes here before anything is done with it. The bounds are far
above what a run makes; they keep one hostile entry from filling memory or the screen.
"""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

MAX_DOCUMENT = 16 * 2**20
"""Bytes of a manifest, a key entry, a ref or a signature."""
MAX_NESTING = 32
"""Levels of JSON."""
MAX_FILES = 50_000
"""Files of an artifact."""
MAX_FOLDERS = 16
"""Levels of folders in an artifact, and in a ref's name."""
MAX_PATH = 1_024
MAX_TEXT = 256
_SEGMENT_BYTES = 240  # of the 255 a file system allows: `.json` and temporary endings are added to it
_YEARS = (2000, 2100)
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]*(/[A-Za-z0-9][A-Za-z0-9._:@+=-]*)*")
_LIKE_A_DIGEST = re.compile(r"[0-9a-fA-F]{8,}")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"(\w://[^\s?]*\?)[^\s)]+")


def printable(text: str) -> str:
    """`text` with control, bidirectional and other invisible characters as escapes, in one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def redacted(text: str) -> str:
    """`text` without the credentials of the URLs in it: `ftp://***@host/store`."""
    return _QUERY.sub(r"\1***", _CREDENTIALS.sub("***@", text))


def parse_json(document: bytes) -> Any:
    """The JSON value in `document`.

    Raises:
        ValueError: too large, too deep, not JSON, or a number that JSON does not have.
    """
    if len(document) > MAX_DOCUMENT:
        raise ValueError(f"more than {MAX_DOCUMENT} bytes")
    try:
        value = json.loads(document, parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_NESTING} levels") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_NESTING:
            raise ValueError(f"nested deeper than {MAX_NESTING} levels")
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return value


def first_reason(error: Exception) -> str:
    """Why a document is not what it should be: the first of pydantic's reasons, in one line."""
    if isinstance(error, ValidationError):
        found = error.errors()[0]
        return printable(f"{'.'.join(map(str, found['loc']))[:MAX_TEXT]}: {found['msg']}")
    return printable(str(error))


def ref_name(name: str) -> str:
    """`name`, if it can name an artifact.

    Raises:
        ValueError: not a path of plain segments, too long, or a segment that could be taken for a digest.
    """
    segments = name.split("/")
    if not _REF.fullmatch(name) or len(name) > MAX_TEXT or len(segments) > MAX_FOLDERS:
        raise ValueError("use PRESET/NODE with letters, digits and . _ : @ + = -")
    if any(_LIKE_A_DIGEST.fullmatch(segment) for segment in segments):
        # Such a name would shadow the artifact whose digest begins so.
        raise ValueError("8 or more hexadecimal digits could be taken for a digest")
    return name


def file_path(path: str) -> str:
    """`path`, if it can be a file of an artifact: relative, plain segments, Unicode form NFC.

    Raises:
        ValueError: it could lie outside the artifact, or be shown as something else than it is.
    """
    segments = path.split("/")
    if any(segment in ("", ".", "..") for segment in segments) or "\\" in path:
        raise ValueError(f"{path!r} is not a path inside the artifact")
    if len(path) > MAX_PATH or len(segments) > MAX_FOLDERS:
        raise ValueError(f"a path of {len(path)} characters in {len(segments)} folders is too long")
    if any(len(segment.encode("utf-8", "replace")) > _SEGMENT_BYTES for segment in segments):
        raise ValueError(f"a name in {path[:80]!r} is longer than {_SEGMENT_BYTES} bytes")
    if not path.isprintable() or not unicodedata.is_normalized("NFC", path):
        raise ValueError(f"the name {path!r} holds invisible characters or is not in Unicode form NFC")
    return path


def distinct_paths(paths: list[str]) -> None:
    """Raises ValueError where a path is there twice, or is the folder of another."""
    for path, after in pairwise(sorted(paths)):
        if path == after or after.startswith(path + "/"):
            raise ValueError(f"{path!r} is there twice")


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _plain_text(text: str) -> str:
    if not text.isprintable() or len(text) > MAX_TEXT:
        raise ValueError(f"not a plain text of at most {MAX_TEXT} characters")
    return text


def _plausible(time: datetime) -> datetime:
    if not _YEARS[0] <= time.year < _YEARS[1]:
        raise ValueError(f"the year {time.year} cannot be right")
    return time.astimezone(UTC)


Text = Annotated[str, AfterValidator(_plain_text)]
"""A name or a short remark that is shown: no control or bidirectional characters."""
FilePath = Annotated[str, AfterValidator(file_path)]
Count = Annotated[int, Field(ge=0, le=2**50)]
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
Time = Annotated[AwareDatetime, AfterValidator(_plausible)]
