"""Normalise, erase and mix a batch in one launch, in Triton."""
