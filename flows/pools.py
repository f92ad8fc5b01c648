"""The work pools, once: to add one, add a line; a stage names its pool in its `stage.py`."""

POOLS: dict[str, int | None] = {"cpu": None, "gpu-train": 1, "gpu-rollout": 1}
"""Work pool -> how many runs at once; one GPU stage has the GPU to itself."""
