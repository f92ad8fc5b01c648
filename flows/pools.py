"""The work pools, once: to add one, add a line; a stage names its pool in its `stage.py`."""

POOLS: dict[str, int | None] = {"cpu": None, "gpu-train": 3, "gpu-rollout": 2}
"""Work pool -> how many runs at once. Two of a GPU pool: while one is at work, the process of the next one
starts; in training one more, since two students may wait. Their jobs hold a card each (`tasks.job.cards`), so
that a GPU stage has its GPU to itself."""
