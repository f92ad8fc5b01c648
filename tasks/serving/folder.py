"""Writes a model folder as the model servers need it.  `python -m tasks.serving.folder SOURCE OUT NAME`

The weights are links. A process of its own does it, as wherever a model's files are read: it loads the
tokenizer and renders the chat template.

What differs from the checkpoint's own folder:

    chat_template.jinja       the template that it was trained with, or another one that was asked for
    generation_config.json    the sampling of the published evaluation (D.1), and no top-k
    tokenizer*.json           the tags of the layout are no special tokens, which servers take out of answers
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from artifacts.files import entries, write_atomic
from tasks.export import write_configs
from tasks.rendering import CHAT, TAGS
from tasks.serving.model_server import ServedModel
from tasks.tokenizer import Codec

LONGEST = 32_768
"""Tokens of an answer where the client names no limit, as in the published evaluation."""


def served_folder(
    source: Path, out: Path, name: str, template: str = "", default_limit: bool = False
) -> ServedModel:
    """Write the new folder `out` for the model in `source`.

    `template` is one of `tasks.rendering`; empty: the model's own chat template, and `r1` where it has none.
    `default_limit` writes LONGEST into the generation settings: without, transformers ends answers at 1,024
    tokens, and with, vLLM cuts those of clients that ask for more.

    Raises:
        ValueError: `chat`, and the model has no chat template of its own; or an unusable tokenizer.
    """
    out.mkdir(parents=True)
    for file, path in entries(source).items():
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).symlink_to(path.resolve())
    codec = Codec.of(source)
    if template == CHAT and not codec.has_chat_template:
        raise ValueError(f"template chat: {name} has no chat template of its own; use r1 or plain")
    jinja = _chat_template(codec, template)
    write_atomic(out / "chat_template.jinja", jinja.encode())
    positions = json.loads((out / "config.json").read_text()).get("max_position_embeddings") or LONGEST
    limit = {"max_new_tokens": min(LONGEST, positions)} if default_limit else {}
    write_configs(out, top_k=0, **limit)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (out / file).exists():
            _make_tags_plain(out / file)
    vocabulary = codec.tokenizer.get_vocab()
    codec.tokenizer.chat_template = jinja
    turn = [{"role": "user", "content": "?"}]
    prompt = codec.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return ServedModel(
        name=name,
        folder=str(out),
        opens_thinking=prompt.rstrip().endswith(TAGS[0]),
        tags_are_tokens=all(tag in vocabulary for tag in TAGS[:2]),
        special_names=tuple(codec.special_names),
    )


def _chat_template(codec: Codec, template: str) -> str:
    own = codec.tokenizer.chat_template
    if template or not isinstance(own, str):
        return codec.chat_template(template or "r1")
    # One that this project wrote is whole; one of the model's makers may leave the start token out.
    return codec.chat_template(CHAT) if codec.has_chat_template else own


def _make_tags_plain(file: Path) -> None:
    """Neither mark the tags as special nor list them as such; in all three files of a tokenizer."""
    document = json.loads(file.read_text())
    decoder = document.get("added_tokens_decoder") or {}
    for token in (*(document.get("added_tokens") or ()), *decoder.values()):
        if token["content"] in TAGS:
            token["special"] = False
    for listed in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(document.get(listed), list):
            document[listed] = [token for token in document[listed] if _content(token) not in TAGS]
    write_atomic(file, json.dumps(document, ensure_ascii=False).encode())


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def main(argv: list[str] | None = None) -> None:
    """Print the `ServedModel` as JSON, or one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tasks.serving.folder")
    for name in ("source", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("name")
    parser.add_argument("--template", default="")
    parser.add_argument("--default-limit", action="store_true")
    try:
        print(json.dumps(asdict(served_folder(**vars(parser.parse_args(argv))))))
    except (ValueError, OSError) as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
