"""Rotation, crop, flip and cutout of a batch of images."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate(images: Tensor, angle_deg: Tensor) -> Tensor:
    """Rotate each image about its center, counter-clockwise as seen; uint8 in, uint8 out.

    Bilinear, then rounded to the nearest level. Beyond the border the image is mirrored about its
    outermost pixels, as in `crop_flip`. The grid does without `F.affine_grid`, whose matrix product
    would be off by some 0.02 px in TF32.
    """
    height, width = images.shape[2:]
    device = images.device
    x = torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None] - (height - 1) / 2
    angle = torch.deg2rad(angle_deg)[:, None, None]
    cos, sin = angle.cos(), angle.sin()  # (N, 1, 1)
    source_x = (x * cos - y * sin) * (2 / (width - 1))  # (N, H, W) in -1..1 from edge to edge
    source_y = (x * sin + y * cos) * (2 / (height - 1))
    turned = F.grid_sample(
        images.float(),
        torch.stack([source_x, source_y], dim=3),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=True,
    )
    return turned.round_().to(torch.uint8)


def crop_flip(
    images: Tensor, shift: Tensor | None, flip: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Cut a window out of the padded images, shifted down and right, and mirror it; in one gather.

    shift (N, 2), each less than the size; flip (N,) bool. Returns the images, padded by
    reflection (the border pixel is not repeated), and (N, 1, H, W) bool: whether a pixel lies
    outside the original, so that it can be filled otherwise; None if nothing was shifted.
    """
    n, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device).expand(n, height)
    cols = torch.arange(width, device=images.device).expand(n, width)
    outside = None
    if shift is not None:
        rows, cols = rows + shift[:, :1], cols + shift[:, 1:]
    if flip is not None:
        cols = torch.where(flip[:, None], cols.flip(1), cols)
    if shift is not None:
        rows, out_y = _reflect(rows, height), (rows < 0) | (rows >= height)
        cols, out_x = _reflect(cols, width), (cols < 0) | (cols >= width)
        outside = (out_y[:, :, None] | out_x[:, None, :])[:, None]
    area = height * width
    source = (rows[:, :, None] * width + cols[:, None, :]).view(n, 1, area)
    flat = images.reshape(n, channels, area).gather(2, source.expand(n, channels, area))
    return flat.view(images.shape), outside


def _reflect(index: Tensor, size: int) -> Tensor:
    """Fold -size < index < 2 size - 1 back into 0..size - 1, about the first and last pixel."""
    last = size - 1
    return last - (last - index.abs()).abs()


def hole_mask(holes: Tensor, height: int, width: int) -> Tensor:
    """Return (N, 1, H, W) bool, whether a pixel is cut out, from top, left, side (N, count, 3)."""
    top, left, side = holes[..., None].unbind(2)  # (N, count, 1)
    y = torch.arange(height, device=holes.device)
    x = torch.arange(width, device=holes.device)
    in_rows = (y >= top) & (y < top + side)  # (N, count, H)
    in_cols = (x >= left) & (x < left + side)
    return (in_rows[..., :, None] & in_cols[..., None, :]).any(dim=1, keepdim=True)
