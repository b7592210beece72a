"""Data sets: a name or a path to uint8 images, labels, class names and ids."""

from .dataset import Dataset, Split, Statistics, hold_out, statistics
from .load import load
from .readers.images import read_pictures

__all__ = [
    "Dataset",
    "Split",
    "Statistics",
    "hold_out",
    "load",
    "read_pictures",
    "statistics",
]
