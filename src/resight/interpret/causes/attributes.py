"""Attributes of pictures that can be measured, and pictures changed so that one has another value.

Every function takes a batch of images (n, C, H, W), as numbers from 0 to 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets import Split
from ...records import FloatArray, IntArray

_LUMA = (0.299, 0.587, 0.114)
_SIGMAS = (0.35, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)  # px of 32
_CHUNK = 2000
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
    x = torch.arange(-radius, radius + 1, dtype=images.dtype)
    weights = (-(x**2) / (2 * sigma**2)).exp()
    channels = images.shape[1]
    kernel = (weights / weights.sum()).expand(channels, 1, 1, -1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=channels), kernel.mT, groups=channels)


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
    best, distance = images, (_sharpness(images) - values).abs()
    for sigma in _SIGMAS:
        changed = blur(images, sigma * scale)
        other = (_sharpness(changed) - values).abs()
        nearer = (other < distance)[:, None, None, None]
        best, distance = torch.where(nearer, changed, best), torch.minimum(distance, other)
    return best


@dataclass(frozen=True)
class Attribute:
    """Something that can be measured in a picture, and changed.

    low, high: what a picture with little or much of it is called.
    raises: whether `change` can raise the value; a blur cannot be undone.
    """

    name: str
    low: str
    high: str
    measure: Callable[[Tensor], Tensor]
    change: Callable[[Tensor, Tensor], Tensor]
    raises: bool = True


ATTRIBUTES = (
    Attribute("brightness", "dark", "bright", _brightness, _with_brightness),
    Attribute("contrast", "low in contrast", "high in contrast", _contrast, _with_contrast),
    Attribute("sharpness", "blurred", "grainy", _sharpness, _with_sharpness, raises=False),
    Attribute("saturation", "pale", "strong in color", _saturation, _with_saturation),
)


def attribute_values(split: Split, rows: IntArray) -> FloatArray:
    """Return the attributes (n, A) of the images of a split at rows, in the order of ATTRIBUTES."""
    parts = [np.zeros((0, len(ATTRIBUTES)))]
    for start in range(0, len(rows), _CHUNK):
        images = split.images_at(torch.from_numpy(rows[start : start + _CHUNK])).cpu() / 255
        values = [attribute.measure(images) for attribute in ATTRIBUTES]
        parts.append(torch.stack(values, dim=1).double().numpy())
    return np.concatenate(parts)


def with_values(images: Tensor, attribute: Attribute, values: FloatArray) -> Tensor:
    """Return uint8 images changed so that an attribute has these values, (n,), or nearly."""
    changed = attribute.change(images.float() / 255, torch.from_numpy(np.asarray(values)).float())
    return (changed * 255).round().clamp(0, 255).to(torch.uint8)
