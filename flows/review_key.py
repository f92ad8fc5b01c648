"""The keys by which Prefect keeps the questions of a human review and their answers. No Prefect."""

from __future__ import annotations

import re
from typing import NamedTuple

_KEY = re.compile(r"review-(.+)-([0-9a-f]{64})-(\d+)")


class ReviewKey(NamedTuple):
    """One question of a run."""

    node: str
    digest: str
    """Of the data set."""
    number: int
    """From 1 on; every answer that cannot be used is followed by another question."""

    def __str__(self) -> str:
        """Only letters, digits and dashes: it becomes a part of an address."""
        return f"review-{self.node}-{self.digest}-{self.number}"


def parsed_key(key: str) -> ReviewKey | None:
    """The question with this pause key; None where it is none of ours."""
    found = _KEY.fullmatch(key)
    return ReviewKey(found[1], found[2], int(found[3])) if found else None
