"""Curation: cold-start data (B.3.2) and the rejection-sampled mixture (B.3.3)."""
