"""TrivialAugment: one operation of a fixed table for each image, at a uniform magnitude.

Mueller and Hutter 2021, arXiv 2103.10158, with their wide table. The pixels are those of PIL, to
one level, but for warps: they are bilinear, where the authors took the nearest pixel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .color import to_gray
from .geometry import rotation, warp
from .where import where_drawn

# Number of an operation -> its largest magnitude, and whether it has a sign. The rest (from
# posterize on) has a range of its own; see `levels`.
SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE = range(5)
BRIGHTNESS, SATURATION, CONTRAST, SHARPNESS = range(5, 9)
POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE, IDENTITY = range(9, 14)
NUM_OPS, NUM_BINS = 14, 31
_LARGEST = {
    **dict.fromkeys((SHEAR_X, SHEAR_Y), 0.99),
    **dict.fromkeys((TRANSLATE_X, TRANSLATE_Y), 32.0),  # px, whatever the size of the image
    ROTATE: 135.0,  # degrees
    **dict.fromkeys((BRIGHTNESS, SATURATION, CONTRAST, SHARPNESS), 0.99),
}


def levels(op: Tensor, bins: Tensor, sign: Tensor) -> Tensor:
    """Return the magnitude (N,) float32 of each operation `op` (N,), in its own unit.

    bins: (N,) int64 in 0..30; sign: (N,) float, -1 or 1. The unit of posterize is the bits that are
    cut off, and that of solarize the level from which pixels are inverted.
    """
    share = bins / (NUM_BINS - 1)  # (N,) float32
    result = torch.zeros_like(share)
    for number, largest in _LARGEST.items():
        result = torch.where(op == number, share * sign * largest, result)
    result = torch.where(op == POSTERIZE, (6 * share).round(), result)
    return torch.where(op == SOLARIZE, 255 - 255 * share, result)


def trivial_augment(images: Tensor, op: Tensor, level: Tensor) -> Tensor:
    """Apply to each uint8 image (N, C, H, W) its operation `op` (N,) at its `level` (N,).

    Operations that share most of their work are applied together.
    """
    images = where_drawn(images, op <= ROTATE, _warped, op, level)
    images = where_drawn(images, (op >= BRIGHTNESS) & (op <= SHARPNESS), _blended, op, level)
    images = where_drawn(images, op == POSTERIZE, _posterized, level)
    images = where_drawn(images, op == SOLARIZE, _solarized, level)
    images = where_drawn(images, op == AUTOCONTRAST, _stretched)
    return where_drawn(images, op == EQUALIZE, _equalized)


def _warped(images: Tensor, op: Tensor, level: Tensor) -> Tensor:
    """Shear about the upper left corner, shift, or rotate about the center; black beyond."""
    height, width = images.shape[2:]
    zero = torch.zeros_like(level)

    def where(number: int) -> Tensor:
        return torch.where(op == number, level, zero)

    matrix = rotation(where(ROTATE))  # (N, 2, 3)
    shear_x, shear_y = where(SHEAR_X), where(SHEAR_Y)
    matrix[:, 0, 1] += shear_x
    matrix[:, 1, 0] += shear_y
    matrix[:, 0, 2] += where(TRANSLATE_X) + shear_x * (height / 2)
    matrix[:, 1, 2] += where(TRANSLATE_Y) + shear_y * (width / 2)
    return warp(images, matrix, border="black")


def _blended(images: Tensor, op: Tensor, level: Tensor) -> Tensor:
    """Move away from, or toward, another image: black, gray, even gray or a smooth one."""
    x = images.float()
    op = op[:, None, None, None]
    gray = to_gray(x)  # (N, 1, H, W)
    other = torch.where(op == SATURATION, gray, torch.zeros_like(gray))
    other = torch.where(op == CONTRAST, gray.mean((2, 3), keepdim=True), other)
    other = torch.where(op == SHARPNESS, _smooth(x), other)  # (N, C, H, W)
    blended = other + (1 + level)[:, None, None, None] * (x - other)
    return blended.clamp_(0, 255).round_().to(torch.uint8)


def _smooth(x: Tensor) -> Tensor:
    """Average each pixel (weight 5) with its eight neighbors (1 each); the border stays."""
    if min(x.shape[2:]) < 3:
        return x
    center = x[..., 1:-1, 1:-1]
    inner = (9 * F.avg_pool2d(x, 3, stride=1) + 4 * center) / 13
    result = x.clone()
    result[..., 1:-1, 1:-1] = inner.round_()
    return result


def _posterized(images: Tensor, bits: Tensor) -> Tensor:
    """Set the lowest `bits` (N,) of every level to 0."""
    shift = bits.clamp(0, 7).to(torch.uint8)[:, None, None, None]
    return (images >> shift) << shift


def _solarized(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels from `threshold` (N,) on."""
    return torch.where(images >= threshold[:, None, None, None], 255 - images, images)


def _stretched(images: Tensor) -> Tensor:
    """Stretch the levels of each channel to 0..255, rounded down."""
    x = images.int()
    low, high = (f(x, dim=(2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    stretched = (x - low) * 255 // (high - low).clamp(min=1)
    return torch.where(high > low, stretched, x).to(torch.uint8)


def _equalized(images: Tensor) -> Tensor:
    """Give each channel a nearly even histogram, by PIL's integer arithmetic.

    Pixels below a level are counted in the sorted image: a histogram on a GPU would either
    add in no fixed order or make the CPU wait.
    """
    flat = images.flatten(0, 1).flatten(1).int()  # (N C, H W)
    ordered = flat.sort(dim=1).values
    scale = torch.arange(256, device=images.device, dtype=torch.int32)
    below = torch.searchsorted(ordered, scale.repeat(len(flat), 1))  # (N C, 256)
    # All pixels but those of the highest level, over 255.
    step = below.gather(1, ordered[:, -1:].long()) // 255  # (N C, 1)
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    equalized = table.gather(1, flat.long())
    return torch.where(step > 0, equalized, flat).to(torch.uint8).view(images.shape)
