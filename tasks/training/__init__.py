"""What the trainers share: checkpoints, models, callbacks, several processes."""
