"""Changes of color; normalizing pixels for a network, and back."""

from functools import lru_cache

import torch
from torch import Tensor

from ...errors import UsageError
from .. import Statistics
from .where import where_drawn

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # columns of the draws of `color_jitter`


def shift_hsv(images: Tensor, shift: Tensor) -> Tensor:
    """Shift hue, saturation and value of uint8 RGB images (N, 3, H, W) by (N, 3).

    The scale is OpenCV's for 8 bits: hue 0..179, which wraps at 180; saturation and value 0..255,
    which are clipped. RGB to HSV is OpenCV's fixed-point arithmetic. HSV to RGB rounds the exact
    value, as OpenCV does for single pixels (its vector code truncates, which darkens by up to one
    level). Sums and products are whole numbers below 2**24, which float32 holds exactly, so every
    device gives the same bits.
    """
    red, green, blue = images.float().unbind(1)  # (N, H, W)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    saturation = _fixed_point(spread, 255 / value.clamp(min=1))
    hue = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )  # in units of spread, six to a turn
    hue = _fixed_point(hue, 30 / spread.clamp(min=1))

    by_hue, by_saturation, by_value = shift.float()[..., None, None].unbind(1)  # (N, 1, 1)
    hue = torch.remainder(hue + by_hue, 180)
    saturation = (saturation + by_saturation).clamp(0, 255)
    value = (value + by_value).clamp(0, 255)

    # A channel's share of full color, in thirtieths: 30 in its third of the circle, then a ramp.
    shares = (hue - 90).abs() - 30, 60 - (hue - 60).abs(), 60 - (hue - 120).abs()
    full = 255 * 30
    channels = [value * (full - saturation * (30 - s.clamp(0, 30))) / full for s in shares]
    return torch.stack(channels, dim=1).round_().to(torch.uint8)


def _fixed_point(x: Tensor, factor: Tensor) -> Tensor:
    """Return x * factor as OpenCV rounds it: the factor to 1/4096, then the product half up."""
    return ((x * (factor * 4096).round() + 2048) / 4096).floor()


def color_jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of uint8 images (N, C, H, W), C = 1 or 3.

    factors: (N, 4): what to multiply the first three with, and the share of the circle of colors
    that the hue turns by. order: (N, 4) int64, which of the four comes first, second and so on.

    As torchvision's `ColorJitter`: brightness is blended with black, contrast with the mean gray,
    saturation with the gray image; every result is clipped to 0..255. Levels are rounded once, at
    the end. Gray images have no saturation and no hue, which change nothing then.
    """
    x = images.float()
    for kind in order.unbind(1):  # (N,)
        factor = factors.gather(1, kind[:, None])  # (N, 1)
        if images.shape[1] == 3:
            x = where_drawn(x, kind == HUE, turn_hue, factor)
        # f x + (1 - f) other, where the other is black, even gray or the gray image.
        factor = torch.where(kind == HUE, 1, factor[:, 0])[:, None, None, None]
        kind = kind[:, None, None, None]
        gray = to_gray(x)  # (N, 1, H, W)
        even = torch.where(kind == CONTRAST, gray.mean((2, 3), keepdim=True), 0)
        other = torch.where(kind == SATURATION, 1 - factor, 0) * gray + (1 - factor) * even
        x = torch.addcmul(other, factor, x).clamp_(0, 255)
    return x.round_().to(torch.uint8)


def to_gray(x: Tensor) -> Tensor:
    """Return the brightness (N, 1, H, W) of float images, (N, 1, H, W) or RGB, by ITU-R 601."""
    if x.shape[1] == 1:
        return x
    red, green, blue = (x[:, i : i + 1] for i in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of float RGB images (N, 3, H, W) by shares of the circle (N, 1)."""
    red, green, blue = x.unbind(1)  # (N, H, W)
    value, least = x.amax(1), x.amin(1)
    spread = value - least
    sixths = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    ) / torch.where(spread > 0, spread, 1)
    sixths = sixths + 6 * turn[..., None]
    # A channel falls from the value to the least within a sixth of the circle, on both sides.
    ramps = (torch.remainder(sixths + start, 6) for start in (5, 3, 1))
    return torch.stack([value - spread * r.minimum(4 - r).clamp(0, 1) for r in ramps], dim=1)


def normalize(images: Tensor, stats: Statistics) -> Tensor:
    """Turn uint8 images (N, C, H, W) into float32, (x / 255 - mean) / std per channel."""
    check_images(images, stats)
    scale, shift = _scale_shift(stats, images.device)
    return images.to(torch.float32).mul_(scale).add_(shift)


def denormalize(images: Tensor, stats: Statistics) -> Tensor:
    """Turn normalized images (N, C, H, W) back into uint8: the exact inverse of `normalize`.

    Values below black or above white are clipped.
    """
    scale, shift = _scale_shift(stats, images.device)
    return images.detach().sub(shift).div_(scale).round_().clamp_(0, 255).to(torch.uint8)


def check_images(images: Tensor, stats: Statistics) -> None:
    """Refuse images that normalizing would silently turn into wrong numbers."""
    if images.dtype != torch.uint8:
        kind = str(images.dtype).removeprefix("torch.")
        raise UsageError(f"images are {kind}; give uint8 (N, C, H, W), levels 0 to 255")
    if images.ndim != 4 or images.shape[1] != len(stats.mean):
        raise UsageError(
            f"images have the shape {tuple(images.shape)}, but the statistics are for "
            f"(N, {len(stats.mean)}, H, W); compute them from these images"
        )


@lru_cache(maxsize=16)  # else the CPU would wait for a copy to the GPU in every batch
def _scale_shift(stats: Statistics, device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, C, 1, 1) each, such that normalized = levels * scale + shift."""
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in (stats.mean, stats.std))
    scale, shift = (x.float().view(1, -1, 1, 1) for x in (1 / (255 * std), -mean / std))
    return scale.to(device), shift.to(device)
