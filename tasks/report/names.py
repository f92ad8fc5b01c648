"""How the report names domains and commits. Nodes are named by the recipe (`tasks.recipe`)."""

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


def domain_title(domain: str) -> str:
    """What the report calls a domain; an unknown one keeps its name."""
    return DOMAIN_TITLES.get(domain, domain)


def short_revision(revision: str) -> str:
    """A git commit as a page shows it; that files were changed (`-dirty`) stays said."""
    commit, *changed = revision.split("-")
    return "-".join([commit[:12], *changed])
