"""One process among several: who is who, how they meet, what they share, when they stop."""
