"""How the report names domains. Nodes are named by the recipe (`tasks.recipe`)."""

from __future__ import annotations

DOMAIN_TITLES = {
    "problems": "Problems",
    "math": "Math",
    "code": "Code",
    "stem": "STEM",
    "logic": "Logic",
    "general": "General",
    "verifiable": "Verifiable",
}
