"""Colour jitter and RandAugment of a batch: in Triton, in C++, and in PyTorch."""
