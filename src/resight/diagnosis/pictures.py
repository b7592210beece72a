"""Statistics of images (N, C, H, W) that tell how they were read and normalized."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

import torch
import torch.nn.functional as F
from torch import Tensor

Statistics = tuple[Tensor, Tensor]  # mean and standard deviation, each (C,)
MIN_SIGMAS = 4.0  # a difference of so many standard errors is no chance


def center(images: Tensor) -> Tensor:
    """Return the middle half of images, where neither a crop nor a rotation fills in anything."""
    height, width = images.shape[2:]
    top, left = height // 4, width // 4
    return images[:, :, top : height - top, left : width - left]


def channel_statistics(images: Tensor) -> Statistics:
    """Return mean and standard deviation of each channel."""
    return images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))


def views(images: Tensor) -> list[Statistics]:
    """Return the statistics of whole images and of their middle, in which padding does not show."""
    return [channel_statistics(part) for part in (images, center(images))]


def roughness(images: Tensor, distance: int = 1) -> float:
    """Return the mean difference of two pixels of a row, in standard deviations."""
    change = images[..., distance:] - images[..., :-distance]
    return float(change.abs().mean() / images.std().clamp_min(1e-12))


def is_viewed_as_channels_first(images: Tensor) -> bool:
    """Whether (H, W, 3) was reshaped to (3, H, W): pixels three apart are nearer than neighbors."""
    if images.shape[1] != 3 or images.shape[3] < 8:
        return False
    return roughness(images, 3) < 0.8 * roughness(images, 1)


def color_shift(one: Tensor, other: Tensor) -> Tensor | None:
    """Return by how much each channel of `other` is brighter than in `one` (C,), if colors differ.

    The color of an image is the difference of two channels' means in its middle. Colors differ if
    their means over the two sets lie MIN_SIGMAS standard errors apart, and a tenth of a pixel's
    standard deviation.
    """
    if one.shape[1] != 3 or other.shape[1] != 3 or min(len(one), len(other)) < 16:
        return None
    first, second = (center(part).mean(dim=(2, 3)) for part in (one, other))  # (N, 3)
    shift = second.mean(dim=0) - first.mean(dim=0)
    for a, b in combinations(range(3), 2):
        colors = [part[:, a] - part[:, b] for part in (first, second)]
        error = sum(float(color.var()) / len(color) for color in colors) ** 0.5
        apart = abs(float(colors[0].mean() - colors[1].mean()))
        if apart > MIN_SIGMAS * error and apart > 0.1 * float(one.std()):
            return shift
    return None


@dataclass(frozen=True)
class Agreement:
    """How often images have the label of their nearest image, and would have it by chance."""

    share: float
    chance: float
    n: int

    @property
    def excess(self) -> float:
        """The share above chance."""
        return self.share - self.chance

    @property
    def sigmas(self) -> float:
        """The standard errors by which the share is above chance."""
        return self.excess / max(math.sqrt(self.chance * (1 - self.chance) / self.n), 1e-6)


def embedded(images: Tensor) -> Tensor:
    """Return a vector of length 1 for each image: its colors in 4 x 4 cells, less their mean."""
    small = F.adaptive_avg_pool2d(images, 4).flatten(1)
    return F.normalize(small - small.mean(dim=1, keepdim=True), dim=1)


def placements(images: Tensor) -> Iterator[Tensor]:
    """Yield the images as they are, mirrored, and moved by an eighth, as other crops are."""
    down, right = (side // 8 for side in images.shape[2:])
    for mirrored in (images, images.flip(-1)):
        for rows, columns in product((-down, 0, down), (-right, 0, right)):
            yield mirrored.roll((rows, columns), dims=(2, 3))


def neighbor_agreement(
    queries: tuple[Tensor, Tensor], base: tuple[Tensor, Tensor], *, same: bool = False
) -> Agreement:
    """Return how often an image has the label of its nearest image in `base`.

    Each of both is vectors (N, D) and labels (N,). With `same`, an image is not its own neighbor.
    """
    (vectors, labels), (others, other_labels) = queries, base
    similarity = vectors @ others.T
    if same:
        similarity.fill_diagonal_(-1)
    share = float((other_labels[similarity.argmax(dim=1)] == labels).float().mean())
    k = int(max(labels.max(), other_labels.max())) + 1
    counts = [torch.bincount(part, minlength=k) for part in (labels, other_labels)]
    chance = float((counts[0] * counts[1]).sum()) / (len(labels) * len(other_labels))
    return Agreement(share, chance, len(labels))
