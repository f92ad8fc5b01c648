"""The rejection-sampled mixture of reasoning and general data (paper B.3.3)."""
