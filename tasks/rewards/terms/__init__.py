"""The reward terms, a file each (`tasks.rewards.term.Term`); a new file is found by itself."""
