"""The miniature web that the preset `tiny` learns from: exercises, documents, lexicon, base models."""
