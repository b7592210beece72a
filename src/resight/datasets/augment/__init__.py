"""Augmentation: a uint8 batch in, a normalized float32 batch out, on the device of the batch.

Only `draws` is random: it turns a recipe and a generator into plain tensors, with numbers for each
image. `geometry`, `color`, `trivial` and `mix` apply these numbers to the whole batch at once.
Images stay uint8 until they are normalized, which keeps the memory traffic low.
"""

from .color import denormalize, normalize
from .mix import Labels, MixedLabels, larger_label, split_labels
from .pipeline import augment, augment_labeled, check_augment

__all__ = [
    "Labels",
    "MixedLabels",
    "augment",
    "augment_labeled",
    "check_augment",
    "denormalize",
    "larger_label",
    "normalize",
    "split_labels",
]
