"""Rewards: from (problem, completion) to typed verdicts and numeric terms (docs/rewards.md).

Used by RL, cold start, rejection sampling and evaluation alike. sympy, reasoning-gym, jieba and
model-written programs live in other processes or behind the first call.
"""
