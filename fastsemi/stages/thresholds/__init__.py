"""Which pseudo labels count, and how much: one rule a file."""
