"""How the report names, orders and colours the recipe's nodes, domains and metrics. Imports nothing."""

from __future__ import annotations

from collections.abc import Iterable

TITLES = {
    "problems": "Problems",
    "base": "Base",
    "r1-zero": "R1-Zero",
    "cold-start": "Cold-start set",
    "dev1": "Dev1",
    "dev2": "Dev2",
    "mixture": "SFT mixture",
    "dev3": "Dev3",
    "reward-models": "Reward models",
    "r1": "R1",
    "student-base": "Student base",
    "student-distilled": "Student, distilled",
    "student-rl-only": "Student, RL only",
    "evaluation": "Evaluation",
    "report": "Report",
}
"""By role, in the order of the recipe."""

_STUDENT_ROLES = ("base", "distilled", "rl-only")

DOMAIN_TITLES = {
    "problems": "Problems",
    "math": "Math",
    "code": "Code",
    "stem": "STEM",
    "logic": "Logic",
    "general": "General",
    "verifiable": "Verifiable",
}
VERIFIABLE = ("math", "code", "stem", "logic")


def role(node: str) -> str:
    """`node` without its student's name: `tiny-student-distilled` -> `student-distilled`."""
    if node in TITLES:
        return node
    for name in _STUDENT_ROLES:
        if node.endswith(f"-{name}"):
            return f"student-{name}"
    return node


def title(node: str) -> str:
    return TITLES.get(role(node), node)


def in_order(nodes: Iterable[str]) -> list[str]:
    """The recipe's nodes first and in its order, others after them by name."""
    order = list(TITLES)
    return sorted(nodes, key=lambda n: (order.index(role(n)) if role(n) in order else len(order), n))
