"""The tiny world's tokenizer: whole words, single digits, Chinese phrases; a few hundred tokens.

One regular expression cuts text (a token carries the space before it), the vocabulary is what a sample
of the web needs. Decoding is plain concatenation, so text comes back exactly.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from tasks.tiny_world.documents import MESSY_WEB, documents
from tasks.tiny_world.lexicon import PHRASES, translate

PAD, EOS, UNK = "<|pad|>", "<|end|>", "<|unknown|>"

_QUESTION_WORDS = (
    "计算", "等于多少", "写", "加", "减", "乘", "再", "是多少", "比", "高", "谁最高", "谁最矮",
    "按", "升", "降", "序排列", "取余", "在", "向", "问好", "为了", "感谢", "我怎么", "的", "告诉", "你丢了",
    "请", "来", "价格", "比较一下", "列出", "给", "简短地说",
)  # fmt: skip


def token_pattern() -> str:
    """The cut: tags, Chinese phrases (longest first), words, digits, single signs."""
    chinese = sorted({zh for _, zh in PHRASES.values()} | set(_QUESTION_WORDS), key=lambda w: (-len(w), w))
    return (
        r" ?</?(?:think|answer)>|" + "|".join(map(re.escape, chinese)) + r"|[\u4e00-\u9fff]"
        r"| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9\u4e00-\u9fff]|\s"
    )


def build_tokenizer(sample: int = 60_000) -> Any:
    """A `PreTrainedTokenizerFast` whose vocabulary covers the web, its translations and every digit."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pattern = re.compile(token_pattern())
    texts = list(itertools.islice(documents(MESSY_WEB, seed=0), sample))
    texts += [translate(text, language) for text in texts[:5_000] for language in ("en", "zh")]
    found = {token for text in texts for token in pattern.findall(text)}
    found |= {space + sign for space in ("", " ") for sign in "0123456789+-*/=()<>.,:?!"}
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNK, *sorted(found)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(token_pattern()), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNK,
        clean_up_tokenization_spaces=False, padding_side="left", model_max_length=512,
    )  # fmt: skip


def save_tokenizer(folder: Path) -> Any:
    """Builds the tokenizer and writes it to `folder`."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(str(folder))
    return tokenizer
