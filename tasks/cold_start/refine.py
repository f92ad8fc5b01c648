"""Refinement of a trace: the stand-in for DeepSeek-V3's rewriting (paper B.3.2).

`lexicon` brings a thinking that mixes languages into the question's language, phrase by phrase. V3 also
polishes the reasoning and writes a summary in place of the bare answer; this does neither, so the
answer that was verified stays as the model wrote it.
"""

from __future__ import annotations

from dataclasses import replace

from tasks.curation.filters import Candidate
from tasks.rewards.language import language_consistency
from tasks.tiny_world.lexicon import translate


def refine(candidate: Candidate, refiner: str) -> Candidate:
    """The candidate with its thinking in one language; unchanged where it already is, or for `none`."""
    if refiner == "none" or language_consistency(candidate.thinking, candidate.problem.language) == 1:
        return candidate
    thinking = translate(candidate.thinking, candidate.problem.language)
    return replace(candidate, completion=candidate.completion.replace(candidate.thinking, thinking, 1))
