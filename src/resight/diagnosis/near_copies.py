"""Find near copies across two sets: compressed again, brighter, mirrored or moved by a few pixels.

Low frequencies find candidates as a perceptual hash does, and the pixels confirm them:

1. The hash of an image is the 63 lowest frequencies of the cosine transform of its gray picture at
   32 x 32 px, scaled to length 1. (A perceptual hash keeps their signs alone: Zauner 2010.) A
   mirror image has other signs in the odd horizontal frequencies. So with the product e of the
   even frequencies and o of the odd ones, e + |o| is the similarity of two images, one of which may
   be mirrored. All images are compared by two matrix products.
2. An image is laid over its nearest one by the peak of the cross-correlation. Then the colors must
   agree, and so must the details, which are what a blur takes away. Blurred photos of sky and sea
   are alike without being copies. How far details agree by chance is measured on the nearest
   images of other classes.
3. A copy is rare: no more than 20 images may lie within twice its distance. Written digits are
   alike, and their details agree, without being copies.

The limits were chosen by looking at the pairs of CIFAR-10, whose test set is known to have near
duplicates of 3.3 % of its images in training (Barz and Denzler 2020, ciFAIR).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets import Split
from ..records import evenly_spaced

_SIDE, _NUM_FREQUENCIES = 32, 8
_IS_ODD = (torch.arange(_NUM_FREQUENCIES**2) % 2 == 1)[1:]  # (63,) of the horizontal frequency
_MAX_SHIFT = 3  # px of 32
_MIN_SIMILARITY, _MIN_COLORS = 0.5, 0.85
_MIN_DETAILS, _MAX_DETAILS = 0.5, 0.98  # the limit for details lies between, as chance wants it
_NUM_CHANCE = 500  # images whose details say what chance does
_MAX_NEIGHBORS = 20  # of a copy within twice its distance, or 5 % of few images
_CHUNK_PRODUCTS = 2**24  # similarities in memory at once


@dataclass(frozen=True)
class NearCopies:
    """The images `rows` of one set that have a near copy among `matches` of another, both (M,)."""

    rows: Tensor
    matches: Tensor
    details: Tensor  # (M,) how far details agree, the correlation up to 1
    num_searched: int  # images of the first set that were looked at


def near_copies(queries: Split, base: Split, *, max_products: int | None = None) -> NearCopies:
    """Return which images of `queries` have a near copy in `base`.

    With `max_products`, so many pairs are compared at most: those of evenly spaced queries.
    Copies that are equal pixel for pixel are among the result.
    """
    n = len(queries) if max_products is None else max(1, max_products // len(base))
    searched = torch.from_numpy(evenly_spaced(len(queries), n))
    images, labels = queries.images_at(searched).cpu(), queries.labels.cpu()[searched]
    other_labels = base.labels.cpu()
    hashes, other_hashes = _hashes(images), _hashes(base.parts())
    nearest, similarity = _nearest(hashes, other_hashes)

    sample = torch.from_numpy(evenly_spaced(len(images), _NUM_CHANCE))
    foreign, _ = _nearest(hashes[sample], other_hashes, (labels[sample], other_labels))
    by_chance = _lay_over(images[sample], base.images_at(foreign).cpu())[0]
    median = by_chance.median()
    deviation = 1.4826 * (by_chance - median).abs().median()  # as of a normal distribution
    limit = (median + 4 * deviation).clamp(_MIN_DETAILS, _MAX_DETAILS)

    rows = (similarity > _MIN_SIMILARITY).nonzero().flatten()
    matches = nearest[rows]
    details, colors, moved = _lay_over(images[rows], base.images_at(matches).cpu())
    agree = (details > limit) & (colors > _MIN_COLORS)
    rows, matches, details = rows[agree], matches[agree], details[agree]
    most = min(_MAX_NEIGHBORS, max(1, len(base) // 20))
    rare = _num_within_twice(moved[agree], other_hashes, matches) <= most
    return NearCopies(searched[rows[rare]], matches[rare], details[rare], len(searched))


def _small(images: Tensor) -> Tensor:
    """Return images as float32 (N, C, 32, 32)."""
    pixels = images.float()
    if pixels.shape[-2:] == (_SIDE, _SIDE):
        return pixels
    return F.interpolate(pixels, size=(_SIDE, _SIDE), mode="area")


def _hashes(images: Tensor | Iterable[Tensor]) -> Tensor:
    """Return a vector of length 1 for each image, (N, 63); 0 for one of a single color.

    images: (N, C, H, W), or parts of them in order.
    """
    places = torch.arange(_SIDE) + 0.5
    waves = torch.cos(math.pi / _SIDE * places * torch.arange(_NUM_FREQUENCIES)[:, None])  # (8, 32)
    vectors = torch.cat(
        [
            (waves @ _small(part.cpu()).mean(dim=1) @ waves.T).flatten(1)[:, 1:]
            for part in (torch.split(images, 2048) if isinstance(images, Tensor) else images)
        ]
    )
    # Sums of equal pixels are 0 only up to rounding.
    return torch.where(vectors.norm(dim=1, keepdim=True) > 1, F.normalize(vectors, dim=1), 0.0)


def _similarities(hashes: Tensor, others: Tensor) -> Tensor:
    """Return the similarity (N, M) of each image to each other one, or to its mirror image."""
    odd = hashes[:, _IS_ODD] @ others[:, _IS_ODD].T
    return (hashes[:, ~_IS_ODD] @ others[:, ~_IS_ODD].T).add_(odd.abs_())


def _nearest(
    hashes: Tensor, others: Tensor, labels: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the row (N,) of each image's nearest other, and their similarity (N,).

    With the `labels` of both, it is the nearest of another class.
    """
    rows, similarities = [], []
    for start, part in _chunks(hashes, others):
        similarity = _similarities(part, others)
        if labels is not None:
            same = labels[0][start : start + len(part), None] == labels[1]
            similarity.masked_fill_(same, -1.0)
        best = similarity.max(dim=1)
        rows.append(best.indices)
        similarities.append(best.values)
    return torch.cat(rows), torch.cat(similarities)


def _num_within_twice(moved: Tensor, others: Tensor, matches: Tensor) -> Tensor:
    """Return how many others lie within twice the distance of each image to its match, (N,).

    Vectors of length 1 and similarity s have the distance sqrt(2 - 2 s).
    """
    counts = [torch.zeros(0, dtype=torch.int64)]
    for start, part in _chunks(moved, others):
        similarity = _similarities(part, others)
        own = similarity.gather(1, matches[start : start + len(part), None])
        counts.append((similarity >= 1 - 4 * (1 - own) - 1e-4).sum(dim=1))
    return torch.cat(counts)


def _chunks(hashes: Tensor, others: Tensor) -> list[tuple[int, Tensor]]:
    size = max(1, _CHUNK_PRODUCTS // len(others))
    return [(start, hashes[start : start + size]) for start in range(0, len(hashes), size)]


def _lay_over(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay each of the images over its other one, (N, C, H, W) both.

    Returns how far details and colors agree, both (N,), and the hashes (N, 63) of the images as
    they were laid: mirrored, and moved by up to 3 of 32 px each way.
    """
    results = [(torch.zeros(0), torch.zeros(0), torch.zeros(0, len(_IS_ODD)))]
    pairs = zip(torch.split(images, 512), torch.split(others, 512), strict=True)
    results += [_laid_over(_small(one), _small(two)) for one, two in pairs if len(one)]
    details, colors, hashes = (torch.cat(parts) for parts in zip(*results, strict=True))
    return details, colors, hashes


def _laid_over(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Do the work of `_lay_over` for images (N, C, 32, 32) in memory at once."""
    odd = (_hashes(images) * _hashes(others))[:, _IS_ODD].sum(dim=1)
    images = torch.where((odd < 0)[:, None, None, None], images.flip(-1), images)
    details, other_details = _details(images), _details(others)  # (N, 32, 32)
    spectra = torch.fft.rfft2(details) * torch.fft.rfft2(other_details).conj()
    width = 2 * _MAX_SHIFT + 1
    correlation = torch.fft.irfft2(spectra, s=(_SIDE, _SIDE)).roll((_MAX_SHIFT, _MAX_SHIFT), (1, 2))
    peak = correlation[:, :width, :width].flatten(1).argmax(dim=1)
    y = torch.arange(_SIDE) + (peak // width - _MAX_SHIFT)[:, None]  # (N, 32): where each row is
    x = torch.arange(_SIDE) + (peak % width - _MAX_SHIFT)[:, None]
    inside = ((y >= 0) & (y < _SIDE))[:, :, None] & ((x >= 0) & (x < _SIDE))[:, None, :]
    y, x = y.clamp(0, _SIDE - 1)[:, :, None], x.clamp(0, _SIDE - 1)[:, None, :]
    n = torch.arange(len(images))[:, None, None]
    moved = images.permute(0, 2, 3, 1)[n, y, x].permute(0, 3, 1, 2)  # (N, C, 32, 32)
    mask = inside[:, None].float()
    return (
        _correlation(_details(moved)[:, None], other_details[:, None], mask),
        _correlation(moved, others, mask),
        _hashes(moved),
    )


def _details(images: Tensor) -> Tensor:
    """Return what a blur of 5 x 5 px takes from the gray images, (N, 32, 32)."""
    gray = images.mean(dim=1)
    return gray - F.avg_pool2d(gray, 5, stride=1, padding=2, count_include_pad=False)


def _correlation(one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Return the correlation (N,) of pixels where the mask (N, 1, H, W) is 1, channels centered."""
    size = mask.sum(dim=(2, 3), keepdim=True)
    a, b = (
        (part - (part * mask).sum(dim=(2, 3), keepdim=True) / size) * mask for part in (one, other)
    )
    lengths = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)
    correlation: Tensor = (a * b).sum(dim=(1, 2, 3)) / lengths.clamp_min(1e-3)
    return correlation
