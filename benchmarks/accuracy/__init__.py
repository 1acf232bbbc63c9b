"""Accuracy over the seconds of training, beside other libraries."""
