"""The helpful and the safety reward model (paper 3.1, B.2)."""
