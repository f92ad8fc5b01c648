"""The verifiers, a file each (`tasks.rewards.verifier`); a new file is found by itself."""
