"""Augmentation: a uint8 batch in, a normalized float32 batch out, on the device it lies on.

Every image has draws of its own. `draws` is the only place where chance acts: it turns a recipe
and a generator into plain tensors; `geometry` and `color` then do what those tensors say, for
the whole batch at once. Images stay uint8 to the end, which keeps the memory traffic low.
"""

from .color import denormalize, normalize
from .pipeline import augment, check_augment

__all__ = ["augment", "check_augment", "denormalize", "normalize"]
