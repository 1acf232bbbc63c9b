"""A run: its configuration, its folder, its stages in a row, the network it leaves."""
