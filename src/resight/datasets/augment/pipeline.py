"""All steps of augmentation in their order: hsv, rotate, crop, flip, cutout, normalize."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor

from ...errors import UsageError
from ...recipe import Augment
from .. import Statistics
from .color import check_images, normalize, shift_hsv
from .draws import Draws, draw
from .geometry import crop_flip, hole_mask, rotate


def augment(
    images: Tensor,
    spec: Augment,
    stats: Statistics,
    *,
    rows: Tensor,
    epoch: int,
    generator: Generator,
    seed: int = 0,
    part: slice = slice(None),
) -> Tensor:
    """Augment and normalize a batch, with different random numbers for each image.

    images: uint8 (N, C, H, W), which stay as they are.
    rows: (N,) int64, the row of each image in its split. With `epoch` and `seed`, it decides the
    alternating flip.
    generator: gives all random numbers, on the device of the images.
    part: if `images` are only `rows[part]`, the result is the same part of the whole batch.

    Returns float32 (N, C, H, W) on the device of the images.

    Raises:
        UsageError: the recipe cannot apply to such images.
    """
    check_images(images, stats)
    check_augment(spec, images.shape[1], min(images.shape[2:]))
    shape = (len(rows), *images.shape[1:])
    draws = draw(spec, shape, rows=rows, epoch=epoch, seed=seed, generator=generator)
    return apply(images, draws.select(part), spec, stats)


def apply(images: Tensor, draws: Draws, spec: Augment, stats: Statistics) -> Tensor:
    """Apply the drawn numbers to each image; nothing is random here.

    The fill "zero" is a black pixel. The fill "mean" is the exact mean of the data set, which is 0
    after normalizing, and not the nearest of the 256 levels.
    """
    if draws.hsv is not None:
        images = _where_drawn(images, draws.hsv.any(dim=1), draws.hsv, shift_hsv)
    if draws.angle_deg is not None:
        images = _where_drawn(images, draws.angle_deg != 0, draws.angle_deg, rotate)
    blank = None  # (N, 1, H, W) bool: the pixels to fill with the mean
    if draws.crop is not None or draws.flip is not None:
        images, outside = crop_flip(images, draws.crop, draws.flip)
        if spec.crop is not None and outside is not None and spec.crop.fill != "reflect":
            images, blank = _fill(images, outside, spec.crop.fill, blank)
    if spec.cutout is not None and draws.holes is not None:
        holes = hole_mask(draws.holes, *images.shape[2:])
        images, blank = _fill(images, holes, spec.cutout.fill, blank)
    normalized = normalize(images, stats)
    return normalized if blank is None else normalized.mul_(~blank)


def _where_drawn(
    images: Tensor, drawn: Tensor, amounts: Tensor, change: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Change the images where `drawn` (N,), by their amounts (N, ...)."""
    if images.device.type == "cpu":  # the same result for less work
        rows = drawn.nonzero().squeeze(1)
        return images.index_copy(0, rows, change(images[rows], amounts[rows]))
    # A GPU changes all images: to count the drawn ones, the CPU would have to wait for it.
    return torch.where(drawn[:, None, None, None], change(images, amounts), images)


def _fill(
    images: Tensor, mask: Tensor, fill: Literal["zero", "mean"], blank: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Fill the pixels under the mask with black, or mark them in `blank` for the mean."""
    if fill == "mean":
        return images, mask if blank is None else blank | mask
    return images * ~mask, None if blank is None else blank & ~mask


def check_augment(spec: Augment, channels: int, image_size: int) -> None:
    """Raise UsageError if the recipe cannot apply to images of this many channels and pixels.

    image_size: the shorter side, in px.
    """
    if spec.hsv is not None and channels != 3:
        plural = "channel" if channels == 1 else "channels"
        raise UsageError(
            f"augment.hsv needs color images, but these have {channels} {plural}; "
            "set augment.hsv=none"
        )
    if spec.crop is not None and spec.crop.pad >= image_size:
        raise UsageError(
            f"augment.crop.pad = {spec.crop.pad} must be less than the image size, "
            f"{image_size} px; set augment.crop.pad={max(1, image_size // 8)}"
        )
    if spec.cutout is not None and spec.cutout.max_px >= image_size:
        raise UsageError(
            f"augment.cutout.max_px = {spec.cutout.max_px} must be less than the image size, "
            f"{image_size} px; set augment.cutout.max_px={max(1, image_size // 4)} "
            "and augment.cutout.min_px no higher"
        )
