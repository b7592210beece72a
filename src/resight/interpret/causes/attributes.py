"""Attributes of pictures that can be measured, and pictures changed so that one has another value.

Every function of pictures takes a batch (n, C, H, W), as numbers from 0 to 1.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...datasets import Split
from ...datasets.readers.picture import picture_size
from ...records import FloatArray, IntArray, evenly_spaced

_LUMA = (0.299, 0.587, 0.114)
_SIGMAS = (0.35, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)  # px of 32
_QUALITIES = (70, 50, 35, 25, 18, 12, 8, 5)  # of JPEG, from fine to coarse
_ZOOMS = (0.9, 1.1, 0.8, 1.25, 0.7, 1.4, 0.6, 1.7, 0.5, 2.0, 0.4, 2.5)
_MIN_GAIN = 0.03  # of the share with details, from which a stronger zoom is worth it
_BLOCK = 8  # px, the grid of JPEG
_CHUNK = 2000
_FIRST_FILES = 200  # of the images, whose sizes say whether files have several
_TINY = 1e-4


def luma(images: Tensor) -> Tensor:
    """Return the brightness of every pixel, (n, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(_LUMA)[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Return images with a Gaussian blur of `sigma` px; borders are repeated."""
    radius = max(1, round(3 * sigma))
    x = torch.arange(-radius, radius + 1)
    weights = (-(x**2) / (2 * sigma**2)).exp()
    weights = weights / weights.sum()

    def matrix(size: int) -> Tensor:  # of small images a product is faster than a convolution
        at = (torch.arange(size)[:, None] + x).clamp(0, size - 1)
        return torch.zeros(size, size).scatter_add_(1, at, weights.expand(size, -1))

    return matrix(images.shape[-2]) @ images @ matrix(images.shape[-1]).T


def _brightness(images: Tensor) -> Tensor:
    return luma(images).mean(dim=(1, 2, 3))


def _contrast(images: Tensor) -> Tensor:
    return luma(images).flatten(1).std(dim=1)


def _sharpness(images: Tensor) -> Tensor:
    """The share of the finest details among the fine ones, as the logarithm of a ratio."""
    gray = luma(images)
    fine = blur(gray, 0.7)
    finest, middle = (gray - fine).square(), (fine - blur(fine, 1.4)).square()
    energies = [part.mean(dim=(1, 2, 3)) + _TINY**2 for part in (finest, middle)]
    return (energies[0] / energies[1]).log()


def _saturation(images: Tensor) -> Tensor:
    return (images.amax(dim=1) - images.amin(dim=1)).mean(dim=(1, 2))


def _subject(images: Tensor) -> Tensor:
    """The share of the picture that has details, which a plain background has not.

    d is the mixed derivative, which is 0 on straight borders and gradients along the sides, spread
    over 2 px of 32. (sum d)^2 / (N sum d^2) is the share of the picture that has it, whatever the
    contrast: 1 if all pixels have as much.
    """
    scale = images.shape[-1] / 32
    gray = blur(luma(images), 0.7 * scale)
    across = gray[..., 1:] - gray[..., :-1]
    mixed = (across[..., 1:, :] - across[..., :-1, :]).abs()
    details = blur(mixed, 2 * scale).flatten(1) + _TINY / 100
    return details.sum(dim=1).square() / (details.shape[1] * details.square().sum(dim=1))


def _blocks(images: Tensor) -> Tensor:
    """How much larger steps are across the grid of JPEG than beside it, the logarithm of a ratio.

    A step is what a straight line through both neighbors does not explain. A picture that was
    resized after its compression has no such grid.
    """
    gray = luma(images)
    steps = []
    for pixels in (gray, gray.mT):
        a, b, c, d = (pixels[..., k : pixels.shape[-1] - 3 + k] for k in range(4))
        bend = ((c - b) - (b - a) / 2 - (d - c) / 2).abs().mean(dim=(1, 2))  # (n, W - 3)
        steps.append(bend)
    bends = torch.cat(steps, dim=1)
    at = torch.cat([torch.arange(step.shape[1]) for step in steps])
    on_grid = at % _BLOCK == _BLOCK - 2
    on, off = (bends[:, part].mean(dim=1) + _TINY for part in (on_grid, ~on_grid))
    return (on / off).log()


def _with_brightness(images: Tensor, values: Tensor) -> Tensor:
    return images * (values / _brightness(images).clamp_min(_TINY))[:, None, None, None]


def _with_contrast(images: Tensor, values: Tensor) -> Tensor:
    mean = images.mean(dim=(2, 3), keepdim=True)
    gain = (values / _contrast(images).clamp_min(_TINY)).clamp(max=10)
    return mean + (images - mean) * gain[:, None, None, None]


def _with_saturation(images: Tensor, values: Tensor) -> Tensor:
    gray = luma(images)
    gain = (values / _saturation(images).clamp_min(_TINY)).clamp(max=10)
    return gray + (images - gray) * gain[:, None, None, None]


def _with_sharpness(images: Tensor, values: Tensor) -> Tensor:
    """The blur that comes nearest to a value; an image that is less sharp stays as it is."""
    scale = images.shape[-1] / 32
    return _nearest(images, values, _sharpness, (blur(images, sigma * scale) for sigma in _SIGMAS))


def _with_subject(images: Tensor, values: Tensor) -> Tensor:
    """The zoom that comes nearest to a value; what lies outside the picture repeats its border."""
    versions = (zoomed(images, zoom) for zoom in _ZOOMS)
    return _nearest(images, values, _subject, versions, gain=_MIN_GAIN)


def zoomed(images: Tensor, zoom: float) -> Tensor:
    """Return images enlarged about their center, or for a zoom below 1 made smaller."""
    height, width = images.shape[-2:]
    if zoom >= 1:
        h, w = max(1, round(height / zoom)), max(1, round(width / zoom))
        y, x = (height - h) // 2, (width - w) // 2
        part = images[..., y : y + h, x : x + w]
        return F.interpolate(part, size=(height, width), mode="bilinear", antialias=True)
    h, w = max(1, round(height * zoom)), max(1, round(width * zoom))
    y, x = (height - h) // 2, (width - w) // 2
    small = F.interpolate(images, size=(h, w), mode="bilinear", antialias=True)
    return F.pad(small, (x, width - w - x, y, height - h - y), mode="replicate")


def _with_blocks(images: Tensor, values: Tensor) -> Tensor:
    """The quality of JPEG that comes nearest to a value; the others stay as they are."""
    return _nearest(images, values, _blocks, (compressed(images, q) for q in _QUALITIES))


def compressed(images: Tensor, quality: int) -> Tensor:
    """Return images compressed as JPEG of a quality from 1 to 95, and decoded."""
    parts = []
    for pixels in (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy():
        file = BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(
            file, "JPEG", quality=quality
        )
        parts.append(np.asarray(Image.open(file)).reshape(pixels.shape))
    if not parts:
        return images
    return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).float() / 255


def _with_original_side(images: Tensor, values: Tensor) -> Tensor:
    """Images that are made as small as an original is, and enlarged again."""
    height, width = images.shape[-2:]
    sides, changed = values.round().long().clamp(4, max(height, width)), images.clone()
    for side in set(sides.tolist()):
        own = sides == side
        size = min(side, height), min(side, width)
        small = F.interpolate(images[own], size=size, mode="bilinear", antialias=True)
        changed[own] = F.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1)
    return changed


def _nearest(
    images: Tensor,
    values: Tensor,
    measure: Callable[[Tensor], Tensor],
    versions: Iterable[Tensor],
    *,
    gain: float = 0.0,
) -> Tensor:
    """Of each image and its versions the one whose measure is nearest to its value.

    A version must be nearer than the mildest before by a gain.
    """
    best, distance = images, (measure(images) - values).abs()
    for changed in versions:
        other = (measure(changed) - values).abs()
        nearer = other < distance - gain
        best = torch.where(nearer[:, None, None, None], changed, best)
        distance = torch.where(nearer, other, distance)
    return best


@dataclass(frozen=True)
class Attribute:
    """Something that can be measured in a picture, and changed.

    low, high: what a picture with little or much of it is called.
    measure: None for what files alone have.
    lowers, raises: whether `change` can lower and raise the value; a blur cannot be undone.
    """

    name: str
    low: str
    high: str
    measure: Callable[[Tensor], Tensor] | None
    change: Callable[[Tensor, Tensor], Tensor]
    lowers: bool = True
    raises: bool = True


ATTRIBUTES = (
    Attribute("brightness", "dark", "bright", _brightness, _with_brightness),
    Attribute("contrast", "low in contrast", "high in contrast", _contrast, _with_contrast),
    Attribute("sharpness", "blurred", "grainy", _sharpness, _with_sharpness, raises=False),
    Attribute("saturation", "pale", "strong in color", _saturation, _with_saturation),
    Attribute(
        *("size of the subject", "mostly plain background", "full of details"),
        *(_subject, _with_subject),
    ),
    Attribute(
        "compression", "finely stored", "coarsely compressed", _blocks, _with_blocks, lowers=False
    ),
    Attribute(
        *("size before resizing", "enlarged from few pixels", "reduced from many pixels"),
        *(None, _with_original_side),
        raises=False,
    ),
)


def attribute_values(split: Split, rows: IntArray) -> FloatArray:
    """Return the attributes (n, A) of the images of a split at rows, in the order of ATTRIBUTES.

    What is not known of the images is not a number.
    """
    parts = [np.zeros((0, len(ATTRIBUTES)))]
    for start in range(0, len(rows), _CHUNK):
        images = split.images_at(torch.from_numpy(rows[start : start + _CHUNK])).cpu() / 255
        unknown = torch.full((len(images),), torch.nan)
        values = [part.measure(images) if part.measure else unknown for part in ATTRIBUTES]
        parts.append(torch.stack(values, dim=1).double().numpy())
    result = np.concatenate(parts)
    result[:, -1] = original_sides(split, rows)
    return result


def original_sides(split: Split, rows: IntArray) -> FloatArray:
    """Return the shorter side (n,) of the file of each image, up to that of the image.

    More pixels are gone from the image. It is not a number where there are no files, where the
    first of them are all as large as the images, or where one cannot be read.
    """
    result = np.full(len(rows), np.nan)
    if split.originals is None:
        return result
    limit = min(split.shape[2:])
    for part in (evenly_spaced(len(rows), _FIRST_FILES), np.arange(len(rows))):
        sides: list[int] = []
        with suppress(Exception):  # readers of damaged files and archives raise many kinds
            sources = split.originals.sources(split.select(torch.from_numpy(rows[part])).ids)
            sides += [min(limit, *picture_size(source)) for source in sources or ()]
        if len(sides) < len(part) or min(sides, default=limit) >= limit:
            return result
    return np.array(sides, dtype=np.float64)


def with_values(images: Tensor, attribute: Attribute, values: FloatArray) -> Tensor:
    """Return uint8 images changed so that an attribute has these values, (n,), or nearly."""
    changed = attribute.change(images.float() / 255, torch.from_numpy(np.asarray(values)).float())
    return (changed * 255).round().clamp(0, 255).to(torch.uint8)
