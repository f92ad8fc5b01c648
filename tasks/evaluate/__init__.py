"""Evaluation: one protocol for every checkpoint (D.1)."""
