"""Reinforcement learning: R1-Zero, reasoning RL, final RL (paper 2.1, 3.2)."""
