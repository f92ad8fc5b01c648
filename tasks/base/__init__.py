"""The model that everything starts from (paper 1)."""
