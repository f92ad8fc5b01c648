"""Colours and fonts of the report's page and its figures; the other rules are in templates/style.css."""

from tasks.recipe import place

INK, MUTED, FAINT = "#1d2126", "#727a83", "#dcdfe3"
DOMAIN_COLORS = {"math": "#1b7cc2", "code": "#d55e00", "stem": "#009e73", "logic": "#cc6fa0"}
COMPARED = ("#d55e00", "#1b7cc2")
"""The first and the second of two runs that are compared."""

LIGHT = {
    "paper": "#ffffff", "panel": "#f7f7f5", "ink": INK, "muted": MUTED, "faint": FAINT,
    "good": "#1f7a4d", "bad": "#b3372b", "unsure": "#8a6d1a", "focus": "#1b7cc2",
}  # fmt: skip
DARK = {
    "paper": "#14171a", "panel": "#1c2024", "ink": "#e8eaed", "muted": "#9aa3ad", "faint": "#353b42",
    "good": "#5cc48f", "bad": "#ee8074", "unsure": "#d9b755", "focus": "#6db3e8",
}  # fmt: skip
FONT = (
    "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','Noto Sans CJK SC','DejaVu Sans',sans-serif"
)
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Noto Sans Mono CJK SC',monospace"


def color(name: str) -> str:
    """Of a node of the recipe or of a domain; others are drawn in grey."""
    at = place(name)
    return (at.color if at else DOMAIN_COLORS.get(name)) or MUTED
