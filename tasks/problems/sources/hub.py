"""Problems of a data set on the Hugging Face hub, by name: `{name: gsm8k, count: 1000}`.

    sources:
      - {name: gsm8k, count: 1000}                                  # a ready map of tasks/problems/maps
      - {name: math-500, revision: COMMIT}                             # 40 hexadecimal digits
      - {name: hub, dataset: owner/name, map: {question: [q], answer: [a], splits: {train: ["*.parquet"]}}}

Files are downloaded as they are and read by `tasks.problems.rows` with its limits: no script of a data set
runs, and nothing is unpickled. `revision` is a commit or a branch; the commit that a branch stood for is in
column `source` of every problem. The cache of the artifacts keeps what was drawn, so a branch that moves
changes nothing that was made. `HF_ENDPOINT` names a mirror, `HF_TOKEN` gives access to gated sets,
`HF_HUB_OFFLINE=1` uses what was downloaded before (`revision` must then be a commit).
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.problems.columns import ColumnMap, ready_map, ready_maps
from tasks.problems.mapped import DataFile, MappedSource
from tasks.problems.rows import split_of

if TYPE_CHECKING:
    HubName = str
else:
    HubName = Literal[("hub", *ready_maps())]

MAX_DOWNLOAD = 2**36
"""Bytes of all files of a data set together."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubDataset(MappedSource):
    name: HubName = "hub"
    """`hub`, or the name of a ready map."""
    dataset: Annotated[str, Field(pattern=r"^$|^[\w.-]+/[\w.-]+$")] = ""
    """`owner/name`; that of the ready map by default."""
    revision: Annotated[str, Field(pattern=r"^[\w./-]{1,200}$")] = "main"
    """Commit or branch. Give the commit to draw the same rows in another store as well."""
    map: ColumnMap | None = None
    """Needed with `name: hub`; replaces the ready map otherwise."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.name == "hub" and not (self.map and (self.dataset or self.map.dataset)):
            raise ValueError(f"name hub needs `dataset` and `map`; ready maps are {', '.join(ready_maps())}")
        return self

    def column_map(self) -> ColumnMap:
        return self.map or ready_map(self.name)

    def identity(self) -> str:
        return self.name if self.name != "hub" else self._dataset().rpartition("/")[2]

    def data(self) -> tuple[str, list[DataFile]]:
        from huggingface_hub import hf_hub_download

        dataset, patterns = self._dataset(), dict(self.column_map().splits)
        commit, names = self._listed(dataset)
        chosen = [name for name in names if split_of(name, patterns)]
        with _Explained(dataset):
            paths = [
                hf_hub_download(dataset, name, repo_type="dataset", revision=commit, endpoint=_endpoint())
                for name in chosen
            ]
        return f"{dataset}@{commit}", [DataFile(Path(p), n) for p, n in zip(paths, chosen, strict=True)]

    def _dataset(self) -> str:
        return self.dataset or self.column_map().dataset

    def _listed(self, dataset: str) -> tuple[str, list[str]]:
        """Return the commit and the names of the data files, sorted."""
        from huggingface_hub import HfApi, constants

        if constants.HF_HUB_OFFLINE and _COMMIT.fullmatch(self.revision):
            return self.revision, _downloaded(dataset, self.revision)
        with _Explained(dataset):
            info = HfApi(endpoint=_endpoint()).dataset_info(
                dataset, revision=self.revision, files_metadata=True
            )
        files = {f.rfilename: f.size or 0 for f in info.siblings or () if _is_data(f.rfilename)}
        patterns = dict(self.column_map().splits)
        size = sum(size for name, size in files.items() if split_of(name, patterns))
        if size > MAX_DOWNLOAD:
            raise ValueError(
                f"{dataset}: its files have {size / 2**30:.0f} GiB, at most {MAX_DOWNLOAD / 2**30:.0f} are "
                "downloaded"
            )
        if not info.sha:
            raise ValueError(f"{dataset}: the hub names no commit of revision {self.revision}: give a commit")
        return info.sha, sorted(files)


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in (".parquet", ".jsonl", ".json", ".csv", ".tsv") and not (
        path.is_absolute() or ".." in path.parts
    )


def _downloaded(dataset: str, commit: str) -> list[str]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{dataset.replace('/', '--')}" / "snapshots" / commit
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if _is_data(p.name))
    if not names:
        raise ValueError(f"{dataset}@{commit} was not downloaded before: unset HF_HUB_OFFLINE once")
    return names


def _endpoint() -> str | None:
    """The hub's address. The library reads it once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


class _Explained:
    """Turns what the hub's library raises into one sentence that names the data set."""

    def __init__(self, dataset: str) -> None:
        self._dataset = dataset

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import httpx
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            raise ValueError(
                f"{self._dataset} is gated: ask for access on the hub and set HF_TOKEN"
            ) from None
        if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
            raise ValueError(
                f"{self._dataset}: the hub has no such data set or revision: check both"
            ) from None
        if isinstance(
            error, httpx.HTTPError | errors.HfHubHTTPError | errors.LocalEntryNotFoundError | OSError
        ):
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise ValueError(
                f"{self._dataset} cannot be downloaded ({reason}): check the network and HF_ENDPOINT, or "
                "copy the "
                "files and use source `file` with the same map"
            ) from None
