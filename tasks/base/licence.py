"""What a base says of its own licence, as its makers wrote it; empty where they wrote nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_MOST = 64 * 1024
"""Characters read of a model card."""


def licence_of_card(card: Path) -> str:
    """The `license` in the YAML head of a model card (README.md), as the Hugging Face hub reads it."""
    if not card.is_file():
        return ""
    with card.open(encoding="utf-8", errors="replace") as file:
        text = file.read(_MOST)
    head = text.removeprefix("---\n").partition("\n---")[0] if text.startswith("---\n") else ""
    try:
        document: Any = yaml.safe_load(head)
    except yaml.YAMLError:
        return ""
    fields = document if isinstance(document, dict) else {}
    # `other` says only that the name stands in another field.
    found = fields.get("license_name") if fields.get("license") == "other" else fields.get("license")
    names = found if isinstance(found, list) else [found]
    return ", ".join(name for name in names if isinstance(name, str))


def licence_of_gguf(path: Path) -> str:
    """The field `general.license` of a GGUF file. It is named as transformers names it, by a string:
    `tasks.base.smollm2.gguf_read_once` then has it parsed already."""
    from gguf import GGUFReader

    field = GGUFReader(str(path)).get_field("general.license")
    return str(field.contents()) if field else ""
