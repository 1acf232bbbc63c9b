"""What is saved of a stage, written whole or not at all, read without running code from it."""
