"""resight: train small image classifiers fast, and see why they err."""

__version__ = "0.1.0"
