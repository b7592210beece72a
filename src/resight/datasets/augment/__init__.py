"""Augmentation: a uint8 batch in, a normalized float32 batch out, on the device of the batch.

Only `draws` is random: it turns a recipe and a generator into plain tensors, with numbers for each
image. `geometry` and `color` apply these numbers to the whole batch at once. Images stay uint8
until they are normalized, which keeps the memory traffic low.
"""

from .color import denormalize, normalize
from .pipeline import augment, check_augment

__all__ = ["augment", "check_augment", "denormalize", "normalize"]
