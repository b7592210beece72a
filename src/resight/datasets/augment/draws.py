"""The random numbers of augmentation, for each image of a batch, from one generator."""

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor

from ...recipe import (
    HSV,
    Affine,
    Augment,
    ColorJitter,
    CutMix,
    Cutout,
    Erasing,
    ResizedCrop,
    Rotate,
)
from . import trivial

_Bits = TypeVar("_Bits", int, Tensor)
_MASK32 = 0xFFFFFFFF
_TRIES = 10  # rectangles for each image, as in torchvision, before none is taken to fit


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
    jitter: Tensor | None = None  # (N, 4) float32: see `color_jitter`
    jitter_order: Tensor | None = None  # (N, 4) int64
    moves: Tensor | None = None  # (N, 4) float32: see `geometry.affine`
    trivial_op: Tensor | None = None  # (N,) int64: see `trivial`
    trivial_level: Tensor | None = None  # (N,) float32
    box: Tensor | None = None  # (N, 4) int64: top, left, height, width of a window, in px
    upside_down: Tensor | None = None  # (N,) bool
    erased: Tensor | None = None  # (N, 4) int64, as `box`
    noise: Tensor | None = None  # (N, C, H, W) uint8, what is erased is filled with
    blend: Tensor | None = None  # (N,) float32: see `mix`
    patch: Tensor | None = None  # (N, 4) int64, as `box`: what the partner fills

    def select(self, part: slice | Tensor) -> "Draws":
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

    Only `rows`, `epoch` and `seed` decide the alternating flip. A transform that is off draws
    nothing, and the order of the draws is that of the lines below, so a new transform goes last:
    then the batches of the recipes that lack it stay what they were.
    """
    n, size = shape[0], shape[2:]
    values: dict[str, Tensor | None] = {}  # by the fields of `Draws`
    if spec.hsv:
        values["hsv"] = _draw_hsv(spec.hsv, n, generator)
    if spec.rotate:
        values["angle_deg"] = _draw_angle(spec.rotate, n, generator)
    if spec.crop:
        values["crop"] = _integers(-spec.crop.pad, spec.crop.pad, (n, 2), generator)
    if spec.flip:
        values["flip"] = _draw_flip(
            spec.flip, n, rows=rows, epoch=epoch, seed=seed, generator=generator
        )
    if spec.cutout:
        values["holes"] = _draw_holes(spec.cutout, n, size, generator)
    if spec.color_jitter:
        values |= _draw_jitter(spec.color_jitter, n, generator)
    if spec.affine:
        values["moves"] = _draw_moves(spec.affine, n, size, generator)
    if spec.trivial_augment:
        values |= _draw_trivial(n, generator)
    if spec.resized_crop:
        values["box"] = _draw_window(spec.resized_crop, n, size, generator)
    if spec.vertical_flip:
        values["upside_down"] = _happens(0.5, n, generator)
    if spec.erasing:
        values |= _draw_erased(spec.erasing, shape, generator)
    if spec.mixup or spec.cutmix:
        values |= _draw_mix(spec, n, size, generator)
    return Draws(**values)


def _draw_hsv(spec: HSV, n: int, generator: Generator) -> Tensor:
    limits = (spec.hue, spec.saturation, spec.value)
    shifts = torch.stack([_integers(-x, x, (n,), generator) for x in limits], dim=1)  # (N, 3)
    return shifts * _happens(spec.prob, n, generator)[:, None]


def _draw_angle(spec: Rotate, n: int, generator: Generator) -> Tensor:
    angle = (2 * _uniform(n, generator) - 1) * spec.limit_deg
    return angle * _happens(spec.prob, n, generator)


def _draw_flip(
    kind: str, n: int, *, rows: Tensor, epoch: int, seed: int, generator: Generator
) -> Tensor:
    """Decide which images to mirror: each with p = 1/2, or each in every second epoch.

    Alternating (Jordan 2024, arXiv 2404.00498): a coin per image decides epoch 0. Each epoch
    mirrors the images that the epoch before did not, so two epochs in a row never repeat a view.
    The coin is a hash of the row and the seed, so nothing is stored between epochs.
    """
    if kind == "random":
        return _happens(0.5, n, generator)
    return ((_mix32(rows ^ _mix32(seed & _MASK32)) + epoch) & 1).bool()


def _draw_holes(spec: Cutout, n: int, size: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw sides uniform in min_px..max_px, then places uniform among all inside the image."""
    side = _integers(spec.min_px, spec.max_px, (n, spec.count), generator)
    # The range of places differs from hole to hole; the bias of the remainder is below 1e-6.
    top, left = (_integers(0, 2**31, (n, spec.count), generator) % (s - side + 1) for s in size)
    return torch.stack([top, left, side * _happens(spec.prob, n, generator)[:, None]], dim=2)


def _draw_jitter(spec: ColorJitter, n: int, generator: Generator) -> dict[str, Tensor]:
    """Draw the factors of brightness, contrast and saturation, the turn of the hue, the order."""
    off = _between(-1, 1, (n, 4), generator)
    limits = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
    columns = [limit * column for limit, column in zip(limits, off.unbind(1), strict=True)]
    order = _between(0, 1, (n, 4), generator).argsort(dim=1)
    changes = torch.stack(columns, dim=1) * _happens(spec.prob, n, generator)[:, None]
    changes[:, :3] += 1
    return {"jitter": changes, "jitter_order": order}


def _draw_moves(spec: Affine, n: int, size: tuple[int, ...], generator: Generator) -> Tensor:
    height, width = size
    off, happens = _between(-1, 1, (n, 4), generator), _happens(spec.prob, n, generator)
    right, down, scale, shear = (off * happens[:, None]).unbind(1)
    middle = (spec.min_scale + spec.max_scale) / 2
    scale = torch.where(happens, middle + scale * (spec.max_scale - middle), 1)
    right, down = right * (spec.translate * width), down * (spec.translate * height)
    return torch.stack([right, down, scale, shear * spec.shear_deg], dim=1)


def _draw_trivial(n: int, generator: Generator) -> dict[str, Tensor]:
    op = _integers(0, trivial.NUM_OPS - 1, (n,), generator)
    bins = _integers(0, trivial.NUM_BINS - 1, (n,), generator)
    sign = 2.0 * _happens(0.5, n, generator) - 1
    return {"trivial_op": op, "trivial_level": trivial.levels(op, bins, sign)}


def _draw_window(spec: ResizedCrop, n: int, size: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw windows as torchvision does; if none of ten fits, take the largest in the middle."""
    scale, ratio = (spec.min_scale, spec.max_scale), (spec.min_ratio, spec.max_ratio)
    tall, wide, fits = _draw_sides(scale, ratio, n, size, generator)
    height, width = size
    largest_tall = min(height, max(1, round(width / spec.min_ratio)))
    largest_wide = min(width, max(1, round(height * spec.max_ratio)))
    tall = torch.where(fits, tall, largest_tall)
    wide = torch.where(fits, wide, largest_wide)
    box = _placed(tall, wide, size, generator)
    middle = torch.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], dim=1)
    return torch.where(fits[:, None], box, middle)


def _draw_erased(
    spec: Erasing, shape: tuple[int, ...], generator: Generator
) -> dict[str, Tensor | None]:
    """Draw a rectangle smaller than the image; if none of ten fits, the image has none."""
    n, size = shape[0], shape[2:]
    area, ratio = (spec.min_area, spec.max_area), (spec.min_ratio, spec.max_ratio)
    tall, wide, fits = _draw_sides(area, ratio, n, size, generator, margin=1)
    happens = fits & _happens(spec.prob, n, generator)
    noise = None
    if spec.fill == "random":
        device = generator.device
        noise = torch.randint(256, shape, generator=generator, device=device, dtype=torch.uint8)
    return {"erased": _placed(tall * happens, wide * happens, size, generator), "noise": noise}


def _draw_sides(
    share: tuple[float, float],
    ratio: tuple[float, float],
    n: int,
    size: tuple[int, ...],
    generator: Generator,
    *,
    margin: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw heights and widths (N,) of rectangles, and whether they fit `size` less a margin (N,).

    The share of the area of `size` is uniform, and the width over the height log-uniform. Of ten
    draws for each image the first that fits is taken.
    """
    height, width = size
    area = _between(*share, (n, _TRIES), generator) * (height * width)
    shape = _between(math.log(ratio[0]), math.log(ratio[1]), (n, _TRIES), generator).exp()
    tall, wide = (area / shape).sqrt().round().long(), (area * shape).sqrt().round().long()
    fits = (tall >= 1) & (tall <= height - margin) & (wide >= 1) & (wide <= width - margin)
    first = fits.int().argmax(dim=1, keepdim=True)
    tall, wide = (x.gather(1, first).squeeze(1) for x in (tall, wide))
    return tall, wide, fits.any(dim=1)


def _placed(tall: Tensor, wide: Tensor, size: tuple[int, ...], generator: Generator) -> Tensor:
    """Place rectangles of these sides (N,) uniformly inside `size`: (N, 4)."""
    n = len(tall)
    top, left = (
        _integers(0, 2**31, (n,), generator) % (whole - side + 1)
        for whole, side in zip(size, (tall, wide), strict=True)
    )
    return torch.stack([top, left, tall, wide], dim=1)


def _draw_mix(
    spec: Augment, n: int, size: tuple[int, ...], generator: Generator
) -> dict[str, Tensor]:
    """Draw how much of each image stays; with mixup and cutmix on, a coin a batch takes one."""
    blend = torch.ones(n, device=generator.device)
    patch = torch.zeros(n, 4, dtype=torch.int64, device=generator.device)
    if spec.mixup:
        happens = _happens(spec.mixup.prob, n, generator)
        blend = torch.where(happens, _beta(spec.mixup.alpha, n, generator), 1)
    if spec.cutmix:
        patch = _draw_patch(spec.cutmix, n, size, generator)
    if spec.mixup and spec.cutmix:
        coin = _happens(0.5, 1, generator)  # (1,)
        blend, patch = torch.where(coin, blend, 1), patch * ~coin
    return {"blend": blend, "patch": patch}


def _draw_patch(spec: CutMix, n: int, size: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw rectangles (N, 4) about uniform centers, cut off at the border, as the paper's code."""
    cut = (1 - _beta(spec.alpha, n, generator)).sqrt() * _happens(spec.prob, n, generator)
    firsts, sides = [], []
    for whole in size:
        half = (whole * cut).long() // 2
        center = _integers(0, whole - 1, (n,), generator)
        first = (center - half).clamp(min=0)
        firsts.append(first)
        sides.append((center + half).clamp(max=whole) - first)
    return torch.stack([*firsts, *sides], dim=1)


def _beta(alpha: float, n: int, generator: Generator) -> Tensor:
    """Draw (N,) float32 from Beta(alpha, alpha)."""
    concentration = torch.full((n, 2), alpha, device=generator.device)
    return torch._sample_dirichlet(concentration, generator)[:, 0]


def _uniform(n: int, generator: Generator) -> Tensor:
    """Draw (N,) float32 in [0, 1)."""
    return torch.rand(n, generator=generator, device=generator.device, dtype=torch.float32)


def _between(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw float32 in low..high."""
    share = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return low + (high - low) * share


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
