"""Settings that the curation stages share."""

from __future__ import annotations

from tasks.settings import Positive, Settings, Share


class Readability(Settings):
    """When a trace is readable (B.3.2, B.3.3; the thresholds are not published)."""

    language_consistency: Share = 0.9
    """At least this share of the thinking's words is in the question's language (after refinement)."""
    repetition_ngram: Positive = 8
    max_repeats: Positive = 3
    """No n-gram of the thinking occurs more often."""
    max_paragraph_words: Positive = 400
    allow_code_in_thinking: bool = False
