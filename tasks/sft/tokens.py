"""Token ids of an `sft` table in memory-mapped files: 4 bytes a token, whatever the number of rows.

    ids.int32            the tokens of all rows, one row after another
    starts.npy           where each row begins in `ids`, and behind the last one their number
    completions.npy      where each row's completion begins in `ids`

They lie in the job's state folder under a digest of all that decides them, and are reused after a restart.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from artifacts.files import fsync_path
from artifacts.tables import read_batches
from tasks.job import Job, StopRequested
from tasks.rendering import CHAT, template_of
from tasks.tokenizer import Codec

IGNORED = -100
"""The label of tokens that carry no loss."""
_FORMAT = 1
"""Part of the digest: raise it when the files change for the same table and tokenizer."""
_ROWS_AT_ONCE = 128
"""The tokenizer takes about 130 bytes a token while it encodes: half a gigabyte for rows of 32,768 tokens."""


@dataclass(frozen=True)
class TokenRows:
    """Rows as token ids: a prompt, and a completion with its end token."""

    ids: np.ndarray
    """int32, mapped: only what is read comes into memory."""
    starts: np.ndarray
    completions: np.ndarray

    def __len__(self) -> int:
        return len(self.completions)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.diff(self.starts)

    @cached_property
    def completion_lengths(self) -> np.ndarray:
        """Tokens of each row that carry loss; a row's very first token is never predicted."""
        return np.minimum(self.starts[1:] - self.completions, self.lengths - 1)

    def prompt(self, row: int) -> list[int]:
        return self.ids[self.starts[row] : self.completions[row]].tolist()

    def completion(self, row: int) -> list[int]:
        return self.ids[self.completions[row] : self.starts[row + 1]].tolist()

    def labels(self, row: int) -> np.ndarray:
        """The row's ids with `IGNORED` in place of the prompt's. Shape (tokens of the row,)."""
        labels = self.ids[self.starts[row] : self.starts[row + 1]].astype(np.int64)
        labels[: max(1, self.completions[row] - self.starts[row])] = IGNORED
        return labels


def token_rows(job: Job, tokenizer: PreTrainedTokenizerBase) -> TokenRows:
    """Those of the job's `dataset`, encoded now unless they were before.

    Raises:
        ValueError: the dataset holds no rows.
        StopRequested: asked to stop; encoding begins anew.
    """
    dataset = job.inputs["dataset"]
    folder = job.state / "tokens" / _digest(dataset.ref.digest, tokenizer)
    if not folder.is_dir():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)

        def told(rows: int) -> None:
            job.progress(0, 0, f"{rows:,} rows encoded")
            if job.should_stop():
                raise StopRequested(f"{job.node}: stopped while its rows were encoded")

        encode(read_batches(dataset.path / "sft", _ROWS_AT_ONCE), tokenizer, unfinished, told)
        unfinished.rename(folder)
        fsync_path(folder.parent)
    return open_rows(folder)


def encode(
    tables: Iterable[pa.Table], tokenizer: PreTrainedTokenizerBase, folder: Path,
    told: Callable[[int], None] = lambda rows: None,
) -> None:  # fmt: skip
    """Writes the files; every completion ends in the end token, whatever its text. `told` hears of rows done.

    A batch is encoded by the threads of the fast tokenizer. A prompt of template `chat` is rendered by this
    tokenizer, as the model that wrote the completion may be of another family.
    """
    codec, template = Codec(tokenizer), None
    prompts: list[int] = []
    lengths: list[int] = []
    with (folder / "ids.int32").open("wb") as file:
        for table in tables:
            template = template or prompt_template(table) or "unknown"
            for prompt, completion in zip(*_encoded(table, codec, template), strict=True):
                prompts.append(len(prompt))
                lengths.append(len(prompt) + len(completion))
                file.write(np.array(prompt + completion, dtype=np.int32).tobytes())
            told(len(lengths))
    if not lengths:
        raise ValueError("the dataset holds no rows: look at its rejected.parquet for the reasons")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    np.save(folder / "starts.npy", starts)
    np.save(folder / "completions.npy", starts[:-1] + prompts)
    for path in folder.iterdir():
        fsync_path(path)


def open_rows(folder: Path) -> TokenRows:
    """What `encode` wrote."""
    return TokenRows(
        np.memmap(folder / "ids.int32", dtype=np.int32, mode="r"),
        np.load(folder / "starts.npy"),
        np.load(folder / "completions.npy"),
    )


def prompt_template(table: pa.Table) -> str | None:
    """That of the prompts, by the first row; tables of one's own may leave the column out."""
    named = table["template"][0].as_py() if "template" in table.column_names else None
    return named or template_of(table["prompt"][0].as_py())


def _encoded(table: pa.Table, codec: Codec, template: str) -> tuple[list[list[int]], list[list[int]]]:
    prompts = table["prompt"].to_pylist()
    if template == CHAT:
        prompts = [codec.prompt(CHAT, question) for question in table["question"].to_pylist()]
    return codec.tokens(prompts), codec.completions(table["completion"].to_pylist())


def _digest(dataset: str, tokenizer: PreTrainedTokenizerBase) -> str:
    decides = [_FORMAT, dataset, tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id,
               tokenizer.chat_template]  # fmt: skip
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
