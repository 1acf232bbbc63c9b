"""The training step, alone and from files."""
