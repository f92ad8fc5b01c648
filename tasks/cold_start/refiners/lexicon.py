"""The tiny world's phrase table, in the place of DeepSeek-V3 and the annotators (paper B.3.2).

It brings a thinking that mixes languages into the question's language, phrase by phrase. V3 also polishes
the reasoning and writes a summary in place of the bare answer; this does neither, so the answer that was
verified stays as the model wrote it.
"""

from __future__ import annotations


def refine(thinking: str, language: str) -> str:
    """The thinking in one language."""
    from tasks.tiny_world.lexicon import translate

    return translate(thinking, language)
