"""Rollout: engines that complete prompts, and the sharded sampling of the `samples` table."""
