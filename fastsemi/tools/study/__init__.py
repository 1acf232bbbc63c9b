"""A table of the paper as a grid of runs over seeds."""
