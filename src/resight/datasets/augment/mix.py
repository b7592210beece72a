"""Mixup and cutmix: each image of a batch and its labels mixed with those of another image."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import box_mask


class MixedLabels(NamedTuple):
    """Two labels for each of N images, and how much of an image has the first label.

    The loss of an image is share * loss(first) + (1 - share) * loss(second).
    """

    first: Tensor  # (N,) int64
    second: Tensor  # (N,) int64
    share: Tensor  # (N,) float32, of the first label, in 0..1

    def larger(self) -> Tensor:
        """Return the label (N,) that has more of the image, the first one of equals."""
        return torch.where(self.share >= 0.5, self.first, self.second)

    def shares(self, num_classes: int) -> Tensor:
        """Return the share of each class in each image, (N, K) float32."""
        first, second = (F.one_hot(x, num_classes).float() for x in self[:2])  # (N, K)
        return torch.lerp(second, first, self.share[:, None])


Labels = Tensor | MixedLabels  # of a batch


def split_labels(labels: Labels, parts: int) -> list[Labels]:
    """Divide the labels of a batch into `parts`, as `Tensor.tensor_split` divides its images."""
    if isinstance(labels, Tensor):
        return list(labels.tensor_split(parts))
    columns = (x.tensor_split(parts) for x in labels)
    return [MixedLabels(*column) for column in zip(*columns, strict=True)]


def larger_label(labels: Labels) -> Tensor:
    """Return one label (N,) for each image: of two, the one that has more of the image."""
    return labels if isinstance(labels, Tensor) else labels.larger()


def mix(
    images: Tensor, labels: Tensor, *, blend: Tensor, patch: Tensor
) -> tuple[Tensor, MixedLabels]:
    """Mix each of N + 1 images with the one before it, but for the first, which is only a partner.

    images: float (N + 1, C, H, W); labels: (N + 1,). blend: (N,), the weight of an image outside
    of its patch. patch: (N, 4), top, left, height and width in px: all of it is the partner's.

    Returns N images and labels. The share of a label is the mean weight of its image's pixels.
    """
    mine, partner = images[1:], images[:-1]
    in_patch = box_mask(patch[:, None], *images.shape[2:])  # (N, 1, H, W)
    weight = torch.where(in_patch, 0, blend[:, None, None, None])
    share = weight.mean((1, 2, 3))
    return torch.lerp(partner, mine, weight), MixedLabels(labels[1:], labels[:-1], share)
