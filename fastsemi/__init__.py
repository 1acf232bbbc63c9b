"""fastsemi: train image classifiers from few labels and many unlabelled images."""

__version__ = "0.1.0"
