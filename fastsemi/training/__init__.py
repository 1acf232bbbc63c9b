"""One loop for all stages: update, evaluation, metrics, checkpoints."""
