"""In which order supervised training reads its rows: a function of the seed alone, so a resume repeats it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def row_order(lengths: Sequence[int], epochs: float, batch_size: int, seed: int) -> list[int]:
    """Row numbers for all steps, `batch_size` a step: epoch after epoch, each batch sorted by length.

    The number of steps is `epochs * rows / batch_size` rounded, at least one.
    """
    steps = max(1, round(epochs * len(lengths) / batch_size))
    passes = -(-steps * batch_size // len(lengths))
    rows = np.concatenate([np.random.default_rng((seed, i)).permutation(len(lengths)) for i in range(passes)])
    batches = rows[: steps * batch_size].reshape(steps, batch_size)
    by_length = np.asarray(lengths)[batches].argsort(axis=1, kind="stable")
    return np.take_along_axis(batches, by_length, axis=1).ravel().tolist()
