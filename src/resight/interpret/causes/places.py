"""Places of a picture that can be taken from one image and put into another."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .attributes import luma

Transplant = Callable[[Tensor, Tensor], Tensor]  # (targets, donors), both (n, C, H, W) uint8


@dataclass(frozen=True, eq=False)
class Place:
    """A part of the picture that can be taken from one image and put into another."""

    name: str  # as "lower left corner of 4 x 4 px"
    size: float  # its share of the picture
    transplant: Transplant
    inside: Tensor | None  # (H, W) bool; None: it is the color of the whole picture

    def meets(self, other: "Place") -> bool:
        """Return whether two places have pixels in common."""
        if self.inside is None or other.inside is None:
            return self.inside is other.inside
        return bool((self.inside & other.inside).any())


def places(channels: int, height: int, width: int) -> tuple[Place, ...]:
    """Return the places that are tried: corners of two sizes, borders, frame, and the color."""
    y, x = torch.arange(height)[:, None], torch.arange(width)
    result: list[Place] = []

    def add(name: str, inside: Tensor) -> None:
        if 0 < inside.sum() < height * width:
            size = float(inside.float().mean())
            result.append(Place(name, size, lambda a, b: torch.where(inside, b, a), inside))

    for part in (8, 4):
        h, w = max(1, height // part), max(1, width // part)
        for vertical, rows in (("upper", y < h), ("lower", y >= height - h)):
            for side, columns in (("left", x < w), ("right", x >= width - w)):
                add(f"{vertical} {side} corner of {w} x {h} px", rows & columns)
    h, w = max(1, height // 8), max(1, width // 8)
    everywhere = torch.ones(height, width, dtype=torch.bool)
    add(f"upper border of {h} px", (y < h) & everywhere)
    add(f"lower border of {h} px", (y >= height - h) & everywhere)
    add(f"left border of {w} px", (x < w) & everywhere)
    add(f"right border of {w} px", (x >= width - w) & everywhere)
    h, w = max(1, height // 16), max(1, width // 16)
    add(f"frame of {w} px", (y < h) | (y >= height - h) | (x < w) | (x >= width - w))
    if channels == 3:
        result.append(Place("color cast", 0.5, _with_cast, None))
    return tuple(result)


def _with_cast(targets: Tensor, donors: Tensor) -> Tensor:
    """Targets with the mean color of the donors; how bright each is stays."""
    casts = []
    for images in (targets, donors):
        mean = (images.float() / 255).mean(dim=(2, 3), keepdim=True)
        casts.append(mean - luma(mean))
    changed = targets.float() + 255 * (casts[1] - casts[0])
    return changed.round().clamp(0, 255).to(torch.uint8)
