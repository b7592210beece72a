"""Data sets: a name or a path to uint8 images, labels, class names and ids."""

from .loading import load
from .pictures import read_pictures
from .values import Dataset, Split, Statistics, hold_out, statistics

__all__ = [
    "Dataset",
    "Split",
    "Statistics",
    "hold_out",
    "load",
    "read_pictures",
    "statistics",
]
