"""Text to tokens and back, in one place: SFT, RL, every engine, evaluation, reward models and export use it.

    prompt       the start token once, where the tokenizer has one that it puts before a text, then the text.
                 An end token that a tokenizer appends is left out: the model goes on from the prompt
    completion   tokens of the text as it stands behind a prompt, then the end token. The prompt's tokens and
                 the completion's are joined as ids; text is never read across the boundary
    text         what a completion's ids say. Start, padding and end tokens at its edges are cut; everything
                 else is kept, because `<think>` may be a token of its own, special or not

Text of a model or a question is only text: what looks like a special token in it does not become one, the
tags of the layout (`tasks.rendering.TAGS`) excepted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from tasks.rendering import CHAT, TAGS, any_of, chat_template, render_prompt, spaced, written_here

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, padding on the left.

    Raises:
        ValueError: as `require_usable`.
    """
    tokenizer = read_tokenizer(str(folder), padding_side="left", local_files_only=True)
    require_usable(tokenizer, str(folder))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_tokenizer(name: str, **where: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub model; `tokenizer.json` decides where there is one.

    `AutoTokenizer` of transformers 5 builds some families' tokenizers anew: a Llama folder with a byte-level
    `tokenizer.json`, as DeepSeek's distilled models have, is read as if it were sentencepiece.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    asked = {key: where[key] for key in ("revision", "local_files_only") if key in where}
    whole = cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **asked)
    loader = PreTrainedTokenizerFast if whole else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(name, trust_remote_code=False, **where)
    return tokenizer


def require_usable(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises ValueError where the tokenizer has no end-of-sequence token, or no fast form."""
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer in {name} has no end-of-sequence token: set eos_token in tokenizer_config.json"
        )
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ValueError(f"the tokenizer in {name} has no fast form: save it with a tokenizer.json")


class Codec:
    """A model's tokenizer and the tokens that end its completions."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.end_tokens = frozenset([tokenizer.eos_token_id, *ends])
        self.start_text, self._lead = _start_of_prompts(tokenizer)

    @classmethod
    def of(cls, folder: Path) -> Codec:
        """That of a Hugging Face folder. Raises as `load_tokenizer`."""
        return cls(load_tokenizer(folder), configured_ends(folder))

    # ---- prompts ------------------------------------------------------------------------------

    def prompt(self, template: str, question: str) -> str:
        """The text of a prompt, without the start token unless the model's chat template writes it.

        A special token's name in the question gets a space (`</s>` becomes `< /s>`).

        Raises:
            ValueError: `chat`, and the model has no chat template, or one that this layout cannot follow.
        """
        question = spaced(question, self._named_specials)
        return self._chat_prompt(question) if template == CHAT else render_prompt(template, question)

    def tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts as `prompt` renders them. One that is asked several times is read once."""
        if not prompts:
            return []
        texts = {p: p if self._has_start(p) else self._lead + p for p in prompts}
        read = self.tokenizer(list(texts.values()), add_special_tokens=False).input_ids
        found = dict(zip(texts, read, strict=True))
        return [list(found[p]) for p in prompts]

    def chat_template(self, template: str) -> str:
        """The chat template that renders a question as `prompt` and `tokens` do, start token included."""
        own = self.tokenizer.chat_template
        if template != CHAT:
            return chat_template(template, self._lead)
        try:
            missing = self.start_text and not self._has_start(self._render("?"))
        except TemplateError:  # it cannot render a single question: `prompt` will say so
            missing = False
        return f"{{{{- {json.dumps(self.start_text, ensure_ascii=False)} -}}}}{own}" if missing else own

    @property
    def has_chat_template(self) -> bool:
        """Whether the model came with one of its own."""
        own = self.tokenizer.chat_template
        return isinstance(own, str) and not written_here(own)

    def _chat_prompt(self, question: str) -> str:
        name, instead = self.tokenizer.name_or_path, "use r1, plain or a text with {question}"
        if not self.has_chat_template:
            raise ValueError(
                f"template: chat, and the tokenizer in {name} has no chat template of its own: {instead}"
            )
        text = self._render(question)
        if tag := next((t for t in TAGS if t in text.rpartition(question)[2]), ""):
            raise ValueError(
                f"template: chat, and the chat template in {name} writes {tag} in the model's place, which "
                f"has to write it itself: {instead}"
            )
        return text

    def _render(self, question: str) -> str:
        turn = [{"role": "user", "content": question}]
        text: str = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return text

    def _has_start(self, text: str) -> bool:
        return bool(self.start_text) and text.startswith(self.start_text)

    # ---- completions --------------------------------------------------------------------------

    def completions(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of completions, each with the end token."""
        read = self._continuation.encode_batch(list(texts), add_special_tokens=False)
        return [[*found.ids, self.tokenizer.eos_token_id] for found in read]

    def texts(self, completions: Iterable[Sequence[int]]) -> list[str]:
        """The text of each completion."""
        return [self._continuation.decode(self._inner(ids), skip_special_tokens=False) for ids in completions]

    def special_inside(self, completion: Sequence[int]) -> list[str]:
        """Special tokens that stand where there should be text; the tags are text, the end is the end."""
        body = completion[:-1] if completion and completion[-1] in self.end_tokens else completion
        return [self._specials[i] for i in body if i in self._specials]

    def _inner(self, ids: Sequence[int]) -> list[int]:
        silent = self.end_tokens | {self.tokenizer.bos_token_id, self.tokenizer.pad_token_id}
        first, last = 0, len(ids)
        while last > first and ids[last - 1] in silent:
            last -= 1
        while first < last and ids[first] in silent:
            first += 1
        return list(ids[first:last])

    @cached_property
    def _specials(self) -> dict[int, str]:
        """Id and name of every special token that is no tag of the layout."""
        added = self.tokenizer.added_tokens_decoder
        special = {i: str(token) for i, token in added.items() if token.special or i in self.end_tokens}
        return {i: name for i, name in special.items() if name not in TAGS}

    @cached_property
    def _named_specials(self) -> re.Pattern[str]:
        return any_of(self.special_names)

    @property
    def special_names(self) -> list[str]:
        """How the special tokens are written, the tags of the layout left out."""
        return sorted(self._specials.values())

    @cached_property
    def _continuation(self) -> Tokenizer:
        """The tokenizer for text that continues a prompt: no space put before it or taken from it, no special
        tokens read in it but the tags."""
        from tokenizers import Tokenizer

        document = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            document[part] = _without_edges(document[part])
        document |= {"post_processor": None, "truncation": None, "padding": None}
        for token in document["added_tokens"]:
            token["special"] = token["id"] in self._specials
        tokenizer = Tokenizer.from_str(json.dumps(document))
        tokenizer.encode_special_tokens = True
        return tokenizer


def configured_ends(folder: Path) -> list[int]:
    """What the generation settings call the end; transformers makes them from `config.json` where absent."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).exists():
            return listed(json.loads((folder / name).read_text()).get("eos_token_id"))
    return []


def listed(token: int | Sequence[int] | None) -> list[int]:
    """One token id, several or none, as a list."""
    return [] if token is None else [token] if isinstance(token, int) else list(token)


def _start_of_prompts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The text of the tokens that the tokenizer puts before a text, and what a prompt needs for them.

    The second differs where a text right behind a special token does not get the space that sentencepiece
    puts before a text (`prepend_scheme: first`): then that space is written.
    """
    plain, whole = (tokenizer("a", add_special_tokens=special).input_ids for special in (False, True))
    places = range(len(whole) - len(plain) + 1)
    start = whole[: next((i for i in places if whole[i : i + len(plain)] == plain), 0)]
    text = "".join(tokenizer.convert_ids_to_tokens(start))
    for lead in (text, f"{text} "):
        if tokenizer(f"{lead}a", add_special_tokens=False).input_ids == start + plain:
            return text, lead
    raise ValueError(f"the tokenizer in {tokenizer.name_or_path} does not read {text!r} as its start token")


def _without_edges(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A part of `tokenizer.json` that neither puts a space before the text nor strips one."""
    if part is None or part["type"] in ("Prepend", "Strip"):
        return None
    for steps in ("normalizers", "pretokenizers", "decoders"):
        if steps in part:
            kept = (_without_edges(step) for step in part[steps])
            return part | {steps: [step for step in kept if step is not None]}
    changed = {"prepend_scheme": "never", "add_prefix_space": False}
    return part | {name: value for name, value in changed.items() if name in part}
