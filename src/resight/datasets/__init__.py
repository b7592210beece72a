"""Data sets: a name or a path to uint8 images, labels, class names and ids."""

from .dataset import (
    Dataset,
    Split,
    Statistics,
    batch_size_for,
    statistics,
)
from .load import data
from .readers.images import read_pictures
from .splits import hold_out

__all__ = [
    "Dataset",
    "Split",
    "Statistics",
    "batch_size_for",
    "data",
    "hold_out",
    "read_pictures",
    "statistics",
]
