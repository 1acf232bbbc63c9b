"""From files to planned batches of uint8 views, ahead of the training step."""
