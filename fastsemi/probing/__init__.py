"""What the labels are worth without training: simple classifiers on pixels and on frozen features."""
