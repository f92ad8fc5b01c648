"""Rewards: one interface from (problem, completion) to typed verdicts and numeric terms (docs/rewards.md).

Used by RL, cold start, rejection sampling and evaluation alike. Importing this package is cheap; sympy,
reasoning-gym, jieba and model-written programs live in other processes or behind the first call.
"""

from tasks.rewards.functions import RewardFunction, Scored, format_reward
from tasks.rewards.health import RewardHealth
from tasks.rewards.language import language_consistency, repetition
from tasks.rewards.pool import VerifierPool
from tasks.rewards.sandbox import sandbox_layers
from tasks.rewards.verdict import Judgement, Verdict

__all__ = [
    "Judgement",
    "RewardFunction",
    "RewardHealth",
    "Scored",
    "Verdict",
    "VerifierPool",
    "format_reward",
    "language_consistency",
    "repetition",
    "sandbox_layers",
]
