"""Supervised fine-tuning and distillation (paper B.4.2, B.4.3)."""
