"""The work pools, once: to add one, add a line; a stage names its pool in its `stage.py`."""

POOLS: dict[str, int | None] = {"cpu": None, "gpu-train": 3, "gpu-rollout": 3}
"""Work pool -> how many runs at once. Three of a GPU pool: two students or two evaluations may wait or be at
work, and the next stage of the recipe has a place. Their jobs hold a card each (`tasks.job.cards`), so that a
GPU stage has its GPU to itself."""
