"""Warps, crops, flips and rectangles of a batch of images."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation(angle_deg: Tensor) -> Tensor:
    """Return the matrices (N, 2, 3) of `warp` that rotate counter-clockwise, as seen, by (N,)."""
    angle = torch.deg2rad(angle_deg)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)


def affine(angle_deg: Tensor, moves: Tensor) -> Tensor:
    """Return the matrices (N, 2, 3) of `warp` that shear along x, rotate, scale, then shift.

    moves: (N, 4): px to the right, px down, factor of the size, degrees of shear.
    """
    right, down, scale, shear_deg = moves.unbind(1)
    matrix = rotation(angle_deg) / scale[:, None, None]
    matrix[:, 0] -= torch.deg2rad(shear_deg).tan()[:, None] * matrix[:, 1]
    matrix[..., 2] = -(matrix[..., 0] * right[:, None] + matrix[..., 1] * down[:, None])
    return matrix


def warp(
    images: Tensor, matrix: Tensor, *, border: Literal["reflect", "black"] = "reflect"
) -> Tensor:
    """Read each pixel at the place that a matrix (N, 2, 3) gives it; uint8 in, uint8 out.

    A matrix maps (x, y, 1) of the result to (x, y) of the image, both in px from the center.
    Bilinear, then rounded to the nearest level. Beyond the border the image is mirrored about its
    outermost pixels, as in `crop_flip`, or black. The grid does without `F.affine_grid`, whose
    matrix product would be off by some 0.02 px in TF32.
    """
    height, width = images.shape[2:]
    device = images.device
    x = torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None] - (height - 1) / 2
    rows = matrix[..., None, None]  # (N, 2, 3, 1, 1)
    source_x, source_y = (x * row[:, 0] + y * row[:, 1] + row[:, 2] for row in rows.unbind(1))
    warped = _sample(
        images,
        source_x * (2 / (width - 1)),  # (N, H, W) in -1..1 from edge to edge
        source_y * (2 / (height - 1)),
        padding="reflection" if border == "reflect" else "border",
    )
    if border == "reflect":
        return warped
    inside = (source_x.abs() <= width / 2) & (source_y.abs() <= height / 2)
    return warped * inside[:, None]


def _sample(
    images: Tensor, x: Tensor, y: Tensor, *, padding: Literal["reflection", "border"]
) -> Tensor:
    """Read images at x and y (N, H, W), -1 and 1 at the centers of the outermost pixels."""
    sampled = F.grid_sample(
        images.float(),
        torch.stack([x, y], dim=3),
        mode="bilinear",
        padding_mode=padding,
        align_corners=True,
    )
    return sampled.round_().to(torch.uint8)


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Enlarge the box (N, 4), top, left, height, width in px, of each image to its whole size.

    Bilinear, as torchvision's resize of the cut-out box. A box is never larger than the result, so
    there is nothing to smooth against aliasing.
    """
    top, left, tall, wide = boxes.float()[..., None].unbind(1)  # (N, 1)
    y, x = (
        first + _centers(size, side, images.device)
        for first, side, size in ((top, tall, images.shape[2]), (left, wide, images.shape[3]))
    )
    n, height, width = len(images), *images.shape[2:]
    x, y = x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1
    grid_x, grid_y = x[:, None].expand(n, height, width), y[..., None].expand(n, height, width)
    return _sample(images, grid_x, grid_y, padding="border")


def _centers(size: int, side: Tensor, device: torch.device) -> Tensor:
    """Return where `size` evenly spaced pixels lie in a box of `side` (N, 1) px: (N, size)."""
    steps = torch.arange(size, device=device) + 0.5
    return (steps * (side / size) - 0.5).clamp(min=0).minimum(side - 1)


def crop_flip(
    images: Tensor, shift: Tensor | None, flip: Tensor | None, upside_down: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Cut a window out of the padded images, shifted down and right, and mirror it; in one gather.

    shift (N, 2), each less than the size; flip (N,) bool, left to right; upside_down (N,) bool.
    Returns the images, padded by reflection (the border pixel is not repeated), and
    (N, 1, H, W) bool: whether a pixel lies outside the original, so that it can be filled
    otherwise; None if nothing was shifted.
    """
    n, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device).expand(n, height)
    cols = torch.arange(width, device=images.device).expand(n, width)
    outside = None
    if shift is not None:
        rows, cols = rows + shift[:, :1], cols + shift[:, 1:]
    if flip is not None:
        cols = torch.where(flip[:, None], cols.flip(1), cols)
    if upside_down is not None:
        rows = torch.where(upside_down[:, None], rows.flip(1), rows)
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


def box_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return (N, 1, H, W) bool, whether a pixel is in a box of (N, count, 4).

    A box is top, left, height and width, in px.
    """
    top, left, tall, wide = boxes[..., None].unbind(2)  # (N, count, 1)
    y = torch.arange(height, device=boxes.device)
    x = torch.arange(width, device=boxes.device)
    in_rows = (y >= top) & (y < top + tall)  # (N, count, H)
    in_cols = (x >= left) & (x < left + wide)
    return (in_rows[..., :, None] & in_cols[..., None, :]).any(dim=1, keepdim=True)
