"""Training stages: RL, supervised fine-tuning, reward models. Only jobs import these modules."""
