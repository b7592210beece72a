"""The random numbers of augmentation, for each image of a batch, from one generator."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor

from ...recipe import HSV, Augment, Cutout, Rotate

_Bits = TypeVar("_Bits", int, Tensor)
_MASK32 = 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of each of N images; None where the recipe has a transform off.

    If a transform skips an image (`prob` < 1), the image has zeros there: a shift, an angle or a
    side of zero leaves it as it was, bit for bit.
    """

    hsv: Tensor | None = None  # (N, 3) int64, added to hue, saturation and value
    angle_deg: Tensor | None = None  # (N,) float32, counter-clockwise
    crop: Tensor | None = None  # (N, 2) int64, down and right, in -pad..pad
    flip: Tensor | None = None  # (N,) bool
    holes: Tensor | None = None  # (N, count, 3) int64: top, left, side, all in px

    def select(self, part: slice) -> "Draws":
        """Return the numbers of the images `part` of the N."""
        return Draws(**{name: None if x is None else x[part] for name, x in vars(self).items()})


def draw(
    spec: Augment,
    shape: tuple[int, ...],
    *,
    rows: Tensor,
    epoch: int,
    seed: int,
    generator: Generator,
) -> Draws:
    """Draw the numbers for a batch of `shape` (N, C, H, W), on the generator's device.

    Only `rows`, `epoch` and `seed` decide the alternating flip.
    """
    n, _, height, width = shape
    return Draws(
        hsv=_draw_hsv(spec.hsv, n, generator) if spec.hsv else None,
        angle_deg=_draw_angle(spec.rotate, n, generator) if spec.rotate else None,
        crop=_integers(-spec.crop.pad, spec.crop.pad, (n, 2), generator) if spec.crop else None,
        flip=_draw_flip(spec.flip, n, rows=rows, epoch=epoch, seed=seed, generator=generator),
        holes=_draw_holes(spec.cutout, n, (height, width), generator) if spec.cutout else None,
    )


def _draw_hsv(spec: HSV, n: int, generator: Generator) -> Tensor:
    limits = (spec.hue, spec.saturation, spec.value)
    shifts = torch.stack([_integers(-x, x, (n,), generator) for x in limits], dim=1)  # (N, 3)
    return shifts * _happens(spec.prob, n, generator)[:, None]


def _draw_angle(spec: Rotate, n: int, generator: Generator) -> Tensor:
    angle = (2 * _uniform(n, generator) - 1) * spec.limit_deg
    return angle * _happens(spec.prob, n, generator)


def _draw_flip(
    kind: str | None, n: int, *, rows: Tensor, epoch: int, seed: int, generator: Generator
) -> Tensor | None:
    """Decide which images to mirror: each with p = 1/2, or each in every second epoch.

    Alternating (Jordan 2024, arXiv 2404.00498): a coin per image decides epoch 0. Each epoch
    mirrors the images that the epoch before did not, so two epochs in a row never repeat a view.
    The coin is a hash of the row and the seed, so nothing is stored between epochs.
    """
    if kind == "random":
        return _happens(0.5, n, generator)
    if kind == "alternating":
        return ((_mix32(rows ^ _mix32(seed & _MASK32)) + epoch) & 1).bool()
    return None


def _draw_holes(spec: Cutout, n: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """Draw sides uniform in min_px..max_px, then places uniform among all inside the image."""
    side = _integers(spec.min_px, spec.max_px, (n, spec.count), generator)
    # The range of places differs from hole to hole; the bias of the remainder is below 1e-6.
    top, left = (_integers(0, 2**31, (n, spec.count), generator) % (s - side + 1) for s in size)
    return torch.stack([top, left, side * _happens(spec.prob, n, generator)[:, None]], dim=2)


def _uniform(n: int, generator: Generator) -> Tensor:
    """Draw (N,) float32 in [0, 1)."""
    return torch.rand(n, generator=generator, device=generator.device, dtype=torch.float32)


def _happens(prob: float, n: int, generator: Generator) -> Tensor:
    return _uniform(n, generator) < prob  # (N,) bool


def _integers(low: int, high: int, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw int64 in low..high, both included."""
    return torch.randint(low, high + 1, shape, generator=generator, device=generator.device)


def _mix32(x: _Bits) -> _Bits:
    """Hash 32 bits to 32 bits, for integers or int64 tensors of them (Mueller's integer hash)."""
    for _ in range(2):
        x = ((x >> 16 ^ x) * 0x45D9F3B) & _MASK32  # below 2**59: int64 holds the product
    return x >> 16 ^ x
