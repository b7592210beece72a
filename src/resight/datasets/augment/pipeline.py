"""All steps of augmentation in their order, which `recipe.Augment` lists."""

from typing import Literal

import torch
from torch import Generator, Tensor

from ...errors import UsageError
from ...recipe import Augment
from .. import Statistics
from .color import check_images, color_jitter, normalize, shift_hsv
from .draws import Draws, draw
from .geometry import affine, box_mask, crop_flip, resized_crop, rotation, warp
from .mix import Labels, mix
from .trivial import trivial_augment
from .where import where_drawn


def augment(
    images: Tensor,
    spec: Augment,
    stats: Statistics,
    *,
    rows: Tensor,
    epoch: int,
    generator: Generator,
    seed: int = 0,
) -> Tensor:
    """Augment and normalize a batch, as `augment_labeled` does, where labels are not needed."""
    return augment_labeled(
        images, rows, spec, stats, rows=rows, epoch=epoch, generator=generator, seed=seed
    )[0]


def augment_labeled(
    images: Tensor,
    labels: Tensor,
    spec: Augment,
    stats: Statistics,
    *,
    rows: Tensor,
    epoch: int,
    generator: Generator,
    seed: int = 0,
    part: slice = slice(None),
) -> tuple[Tensor, Labels]:
    """Augment and normalize a batch, with different random numbers for each image.

    images: uint8 (N, C, H, W), which stay as they are. labels: (N,) int64.
    rows: (N,) int64, the row of each image in its split. With `epoch` and `seed`, it decides the
    alternating flip.
    generator: gives all random numbers, on the device of the images.
    part: the images to return. The result is the same part of the whole batch, whose images are
    mixed with one another and not only within the part.

    Returns float32 (n, C, H, W) on the device of the images, and their labels.

    Raises:
        UsageError: the recipe cannot apply to such images.
    """
    check_images(images, stats)
    check_augment(spec, images.shape[1], min(images.shape[2:]))
    draws = draw(spec, tuple(images.shape), rows=rows, epoch=epoch, seed=seed, generator=generator)
    if draws.blend is None or draws.patch is None:
        return apply(images[part], draws.select(part), spec, stats), labels[part]
    # In a shuffled batch the image before is a random one, and a part needs one more image alone.
    first, end, _ = part.indices(len(images))
    mine = torch.arange(first - 1, end, device=images.device) % len(images)  # (n + 1,)
    return mix(
        apply(images[mine], draws.select(mine), spec, stats),
        labels[mine],
        blend=draws.blend[part],
        patch=draws.patch[part],
    )


def apply(images: Tensor, draws: Draws, spec: Augment, stats: Statistics) -> Tensor:
    """Apply the drawn numbers to each image, all but `mix`; nothing is random here.

    The fill "zero" is a black pixel. The fill "mean" is the exact mean of the data set, which is 0
    after normalizing, and not the nearest of the 256 levels.
    """
    images = _recolor_warp(images, draws)
    if draws.box is not None:
        images = resized_crop(images, draws.box)
    blank = None  # (N, 1, H, W) bool: the pixels to fill with the mean
    if draws.crop is not None or draws.flip is not None or draws.upside_down is not None:
        images, outside = crop_flip(images, draws.crop, draws.flip, draws.upside_down)
        if spec.crop is not None and outside is not None and spec.crop.fill != "reflect":
            images, blank = _fill(images, outside, spec.crop.fill, blank)
    if spec.cutout is not None and draws.holes is not None:
        boxes = torch.cat([draws.holes, draws.holes[..., 2:]], dim=2)
        holes = box_mask(boxes, *images.shape[2:])
        images, blank = _fill(images, holes, spec.cutout.fill, blank)
    if spec.erasing is not None and draws.erased is not None:
        erased = box_mask(draws.erased[:, None], *images.shape[2:])
        images, blank = _fill(images, erased, spec.erasing.fill, blank, draws.noise)
    normalized = normalize(images, stats)
    return normalized if blank is None else normalized.mul_(~blank)


def _recolor_warp(images: Tensor, draws: Draws) -> Tensor:
    """Apply the transforms before the crop."""
    if draws.hsv is not None:
        images = where_drawn(images, draws.hsv.any(dim=1), shift_hsv, draws.hsv)
    if draws.jitter is not None and draws.jitter_order is not None:
        drawn = (draws.jitter[:, :3] != 1).any(dim=1) | (draws.jitter[:, 3] != 0)
        images = where_drawn(images, drawn, color_jitter, draws.jitter, draws.jitter_order)
    angle = draws.angle_deg
    if draws.moves is not None:
        still = torch.zeros_like(draws.moves[:, 0])
        matrix = affine(still if angle is None else angle, draws.moves)
        drawn = (matrix != rotation(still)).flatten(1).any(dim=1)
        images = where_drawn(images, drawn, warp, matrix)
    elif angle is not None:
        images = where_drawn(images, angle != 0, warp, rotation(angle))
    if draws.trivial_op is not None and draws.trivial_level is not None:
        images = trivial_augment(images, draws.trivial_op, draws.trivial_level)
    return images


def _fill(
    images: Tensor,
    mask: Tensor,
    fill: Literal["zero", "mean", "random"],
    blank: Tensor | None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Fill the pixels under the mask with black or noise, or mark them in `blank` for the mean."""
    if fill == "mean":
        return images, mask if blank is None else blank | mask
    filled = images * ~mask if noise is None else torch.where(mask, noise, images)
    return filled, None if blank is None else blank & ~mask


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
    jitter = spec.color_jitter
    if jitter is not None and channels != 3 and (jitter.saturation or jitter.hue):
        raise UsageError(
            "augment.color_jitter changes saturation and hue, but these images are gray; set "
            "augment.color_jitter.saturation=0 and augment.color_jitter.hue=0"
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
