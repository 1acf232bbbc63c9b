"""Measurements: each a program that prints a table and writes JSON. Nothing of fastsemi imports them."""
