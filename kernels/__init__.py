"""Device operations on batches: augmentation, mixing, pseudo labels, the two-label loss."""
