"""Human review of a data set: a person looks at sampled rows and approves, rejects or edits the set.

The decision is an artifact (`Kind.review`) that names the set it is about, so one made earlier is found
again, on every machine that sees the store. Edited rows make a new data set, derived from the reviewed one.
No Prefect: `flows.review_form` asks in its UI, `r1 review` in the terminal.

A decision may be overruled by a later one. The key of each holds the digest of the one before, so none is
ever overwritten and the newest is the end of a chain. Neither author nor time is part of the key of an edited
set: equal rows make the same artifact, and what depends on it is reused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from artifacts.checks import parse_json, printable
from artifacts.files import sha256_files
from artifacts.keys import cache_key
from artifacts.manifest import Manifest, ManifestDraft
from artifacts.refs import Ref
from tasks.kinds import Kind

if TYPE_CHECKING:
    from artifacts.store import ArtifactStore

VERSION = 1
ROW = "row"
"""Column of a row's number in the reviewed set, from 0 on."""
REMOVE = "remove"
"""Column that is true in a line which removes its row."""
_OWN_SOURCE = "review"
"""`source` of a row that the reviewer added without one."""


class ReviewError(ValueError):
    """A decision that cannot be used, or rows that do not fit; one line."""


class Decision(StrEnum):
    approve = "approve"
    """The set is used as it is."""
    reject = "reject"
    """The run fails with the reviewer's comment."""
    edit = "edit"
    """The set is used with the reviewer's rows."""


class Review(BaseModel):
    """What a person decided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: Decision
    author: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    """As claimed: nobody checks it."""
    comment: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2_000)] = ""
    changed: Annotated[int, Field(ge=0)] = 0
    added: Annotated[int, Field(ge=0)] = 0
    removed: Annotated[int, Field(ge=0)] = 0
    """Rows, of an edited set."""


@dataclass(frozen=True)
class Recorded:
    """A decision that is in the store."""

    review: Review
    at: datetime
    record: Ref
    """The decision's own artifact."""
    result: Ref
    """What is to be used: the reviewed set, or the edited one."""

    @property
    def sentence(self) -> str:
        """`edited by Ann on 2026-02-01 10:00 UTC (2 changed, 0 added, 1 removed): typo`."""
        review = self.review
        verb = {"approve": "approved", "reject": "rejected", "edit": "edited"}[review.decision]
        rows = f" ({review.changed} changed, {review.added} added, {review.removed} removed)"
        comment = f": {review.comment}" if review.comment else ""
        counted = rows if review.decision == Decision.edit else ""
        return printable(f"{verb} by {review.author} on {self.at:%Y-%m-%d %H:%M} UTC{counted}{comment}")


def newest(store: ArtifactStore, reviewed: Ref) -> Recorded | None:
    """The decision on exactly this artifact that counts; None where there is none.

    With trust required, decisions that nobody trusted signed do not count, as no artifact of theirs does.
    """
    found: Recorded | None = None
    while record := store.lookup(_key(reviewed, found)):
        manifest = store.manifest(record.digest)
        result = manifest.parents.get("edited", reviewed)
        found = Recorded(Review.model_validate(manifest.config), manifest.created_at, record, result)
    return found


def note(store: ArtifactStore, ref: Ref) -> str:
    """What a person decided on an artifact, or on the one that it is an edited form of; empty: nothing."""
    if ref.kind != Kind.dataset:
        return ""
    for reviewed in (ref, store.manifest(ref.digest).parents.get("reviewed")):
        if reviewed and (found := newest(store, reviewed)) and found.result == ref:
            return found.sentence
    return ""


def decide(
    store: ArtifactStore, reviewed: Ref, review: Review, scratch: Path, rows: str = "", whole: bool = False
) -> Recorded:
    """Put a decision into the store, and for an edit the edited set.

    `rows` is the path of a Parquet or JSONL file, or JSONL itself. Its lines change the rows that they
    number (`changes_of`), or, as the `whole` set, take the place of all rows.

    Raises:
        ReviewError: the decision lacks something, or the rows do not fit; nothing was recorded.
    """
    if reviewed.kind != Kind.dataset:
        raise ReviewError(f"{reviewed.short} is a {reviewed.kind}: only data sets are reviewed")
    if review.decision == Decision.reject and not review.comment:
        raise ReviewError("a rejection needs its reason: say it as the comment")
    if (review.decision == Decision.edit) != bool(rows.strip()):
        missing = "an edit needs its rows" if review.decision == Decision.edit else "rows were given as well"
        raise ReviewError(f"{missing}: choose edit with a Parquet or JSONL file, else give no rows")
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        edited = None
        if review.decision == Decision.edit:
            edited, review = _edited(store, reviewed, review, rows, whole, Path(folder) / "edited")
        return _record(store, reviewed, review, edited, Path(folder) / "record")


def _key(reviewed: Ref, before: Recorded | None) -> str:
    earlier = {"earlier": before.record} if before else {}
    return cache_key("review", VERSION, {}, {"reviewed": reviewed, **earlier})


def _record(store: ArtifactStore, reviewed: Ref, review: Review, edited: Ref | None, draft: Path) -> Recorded:
    of, before = store.manifest(reviewed.digest), newest(store, reviewed)
    draft.mkdir()
    (draft / "review.json").write_text(review.model_dump_json(indent=1))
    parents = {"reviewed": reviewed} | ({"edited": edited} if edited else {})
    record = store.publish(
        draft,
        ManifestDraft(
            kind=Kind.review, stage="review", stage_version=VERSION, node=f"review.{of.node}",
            preset=of.preset, key=_key(reviewed, before), config=review.model_dump(mode="json"),
            parents=parents | ({"earlier": before.record} if before else {}), summary=_summary(review),
        ),
        {},
    )  # fmt: skip
    recorded = newest(store, reviewed)
    if recorded is None or store.manifest(record.digest).config != review.model_dump(mode="json"):
        raise ReviewError("somebody else decided at the same moment: look at that decision first")
    if of.preset:
        store.set_ref(f"{of.preset}/{of.node}.review", recorded.record)  # else `r1 gc` would forget it
    return recorded


def _summary(review: Review) -> dict[str, float | int | str]:
    return {f"review_{name}": value for name, value in review.model_dump(mode="json").items() if value}


# Rows


def files_of(folder: Path) -> list[Path]:
    """The files of the set's rows in order: `sft.parquet`, or the shards in `sft/`."""
    whole = folder / "sft.parquet"
    return [whole] if whole.exists() else sorted((folder / "sft").glob("*.parquet"))


def count_rows(folder: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in files_of(folder))


def rows_of(folder: Path) -> Iterator[dict[str, Any]]:
    """Every row of the set, one after another."""
    return (row for file in files_of(folder) for row in _parquet_rows(file))


def sampled(folder: Path, count: int) -> list[dict[str, Any]]:
    """`count` rows at equal distances over the set, each with its number in column `row`.

    Only the row groups that hold one of them are read.
    """
    import pyarrow.parquet as pq

    total = count_rows(folder)
    wanted = {i * total // min(count, total) for i in range(min(count, total))}
    found, start = [], 0
    for path in files_of(folder):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                places = sorted(place for place in wanted if start <= place < end)
                if places:
                    rows = file.read_row_group(group).take([p - start for p in places]).to_pylist()
                    found += [{ROW: place, **row} for place, row in zip(places, rows, strict=True)]
                start = end
    return found


def save_rows(folder: Path, out: Path) -> int:
    """Write every row with its number to a JSONL file, for editing; how many there are."""
    count = 0
    with out.open("x", encoding="utf-8") as file:
        for count, row in enumerate(rows_of(folder), 1):
            file.write(json.dumps({ROW: count - 1, **row}, ensure_ascii=False) + "\n")
    return count


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1_024):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ReviewError(f"{path} is not a whole Parquet file ({str(error).splitlines()[0]})") from None


# Edits


@dataclass
class _Edits:
    """The reviewer's rows, and what they did to the set."""

    changes: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Number of a row -> the columns that it gets."""
    gone: set[int] = field(default_factory=set)
    new: list[dict[str, Any]] = field(default_factory=list)


def given_rows(rows: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each given row stands (`line 3`), and the row; `rows` is a path, or JSONL itself.

    Raises:
        ReviewError: there is no such file, or a line that is no JSON object.
    """
    if rows.lstrip().startswith("{"):
        yield from _jsonl_rows("the pasted rows", rows.splitlines(keepends=True))
        return
    path = Path(rows.strip()).expanduser()
    if not path.is_file():
        raise ReviewError(
            f"{path} is no file on this machine: give the path of a Parquet or JSONL file, or paste JSONL"
        )
    if path.suffix == ".parquet":
        yield from ((f"{path.name}, row {n}", row) for n, row in enumerate(_parquet_rows(path)))
        return
    try:
        with path.open(encoding="utf-8") as lines:
            yield from _jsonl_rows(path.name, lines)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ReviewError(f"{path} cannot be read: {reason}") from None


def _jsonl_rows(name: str, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.encode())
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ReviewError(f"{name}, line {number} is no JSON object: write one row a line")
        yield f"{name}, line {number}", row


def _edited(
    store: ArtifactStore, reviewed: Ref, review: Review, rows: str, whole: bool, draft: Path
) -> tuple[Ref, Review]:
    """The edited set in the store, and the review with its counts."""
    from tasks.tables import TABLES

    original = store.fetch(reviewed)
    own = {file.path for file in store.manifest(reviewed.digest).files}
    for name in sorted(name for name in own if name.split("/")[0] not in ("sft", "sft.parquet")):
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original / name, draft / name)
    draft.mkdir(exist_ok=True)
    counts: Counter[str] = Counter()
    made = _whole(original, rows, counts) if whole else _changed(original, rows, counts)
    if not _write(draft / "sft.parquet", made):
        raise ReviewError("no row is left: reject the set with a reason instead")
    if not counts:
        raise ReviewError("these rows change nothing: approve the set, or edit at least one row")
    _add_to_funnel(draft, count_rows(original), counts)
    review = review.model_copy(update={name: counts[name] for name in ("changed", "added", "removed")})
    manifest = _edited_manifest(store.manifest(reviewed.digest), review, draft / "sft.parquet")
    return store.publish(draft, manifest, TABLES), review


def _add_to_funnel(draft: Path, entered: int, counts: Counter[str]) -> None:
    """Tell of the review in the funnel of the set, where it has one."""
    from tasks.funnel import Funnel, read_funnel

    steps = read_funnel(draft)
    if not steps:
        return
    funnel = Funnel()
    for step in steps:
        funnel.add(step.name, step.kept, step.dropped)
    more = f" ({counts['added']} rows added)" if counts["added"] else ""
    funnel.add(f"human review{more}", entered - counts["removed"], {"removed_by_reviewer": counts["removed"]})
    funnel.write(draft)


def _edited_manifest(of: Manifest, review: Review, rows: Path) -> ManifestDraft:
    """That of the reviewed set, whose rows most of them are: node, settings, parents and cost stay."""
    (digest,) = sha256_files([rows])
    kept = {name: getattr(of, name) for name in ManifestDraft.model_fields}
    return ManifestDraft(**kept | {
        "key": cache_key("review-edit", VERSION, {"rows": digest}, {"reviewed": of.ref}),
        "parents": {**of.parents, "reviewed": of.ref},
        "summary": {**of.summary, **_summary(review)},
    })  # fmt: skip


def _changed(original: Path, rows: str, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The set with the given changes; what they did is counted in `counts`."""
    edits = _edits(rows, count_rows(original))
    for number, row in enumerate(rows_of(original)):
        if number in edits.gone:
            counts["removed"] += 1
            continue
        new = {**row, **edits.changes.get(number, {})}
        if new != row:
            counts["changed"] += 1
        yield new
    for row in edits.new:
        counts["added"] += 1
        yield row


def _edits(rows: str, total: int) -> _Edits:
    """The given rows, checked: each numbers the row that it changes, and `row: null` is a new one."""
    edits = _Edits()
    for where, given in given_rows(rows):
        if ROW not in given:
            raise ReviewError(
                f"{where} does not say which {ROW} it changes: number it ({ROW}: null adds a row), or say "
                "that these rows are the whole set"
            )
        number, remove = given.pop(ROW), given.pop(REMOVE, None)
        if number is None:
            edits.new.append(_complete(where, given))
            continue
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < total:
            raise ReviewError(f"{where}: {ROW} must be a number from 0 to {total - 1}")
        if number in edits.changes or number in edits.gone:
            raise ReviewError(f"{where}: {ROW} {number} stands twice: give it once")
        if remove:
            edits.gone.add(number)
        else:
            edits.changes[number] = _checked(where, given)
    return edits


def _whole(original: Path, rows: str, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The given rows in the place of all; of the old ones only digests are held, to count what differs."""
    before = array("q", (_fingerprint(row) for row in rows_of(original)))
    left, seen = Counter(before), bytearray(len(before))
    for where, given in given_rows(rows):
        number = given.pop(ROW, None)
        if given.pop(REMOVE, None):
            continue
        row = _complete(where, given)
        mark = _fingerprint(row)
        if isinstance(number, int) and 0 <= number < len(before) and not seen[number]:
            seen[number] = 1
            left[before[number]] -= 1
            if mark != before[number]:
                counts["changed"] += 1
        elif left[mark] > 0:
            left[mark] -= 1
        else:
            counts["added"] += 1
        yield row
    if removed := sum(count for count in left.values() if count > 0):
        counts["removed"] = removed


def _fingerprint(row: Mapping[str, Any]) -> int:
    text = json.dumps(row, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


def _complete(where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A new row, all columns there."""
    from tasks.tables import SFT

    row = {"source": _OWN_SOURCE, **given}
    missing = [column.name for column in SFT if column.name not in row and not column.nullable]
    if missing:
        raise ReviewError(f"{where}: column {', '.join(missing)} is missing: a new row needs it")
    return _checked(where, {column.name: row.pop(column.name, None) for column in SFT} | row)


def _checked(where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Some columns of a row, each a text as the schema wants it."""
    from tasks.tables import SFT

    for name, value in given.items():
        if name not in SFT.names:
            raise ReviewError(
                f"{where}: {printable(name[:40])} is no column: the columns are {', '.join(SFT.names)}"
            )
        if value is None and SFT.field(name).nullable:
            continue
        if not isinstance(value, str) or (name in ("prompt", "completion") and not value.strip()):
            raise ReviewError(f"{where}: column {name} must be a text that is not empty")
        if not _is_unicode(value):
            raise ReviewError(f"{where}: column {name} holds half of a surrogate pair, which is no character")
    return dict(given)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write the rows group by group; how many there were."""
    import pyarrow.parquet as pq

    from artifacts.tables import ROWS_IN_GROUP, conform
    from tasks.tables import SFT

    count = 0
    with pq.ParquetWriter(path, SFT, compression="zstd") as writer:
        while group := list(islice(rows, ROWS_IN_GROUP)):
            writer.write_table(conform(group, SFT))
            count += len(group)
    return count
