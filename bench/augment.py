"""Microseconds an image for augmentation: resight against albumentations, kornia and PIL.

    python bench/augment.py                   # batches of 512 images of 32 px, made up

Three sets of operations, each up to normalized float32 batches: flip, crop (padded by 4 px of
reflection) and cutout (8 x 8); the same after shifts of hue, saturation and value and a rotation,
with the probabilities of resight's defaults; and, for photos, a resized crop, a flip and a color
jitter of all images. albumentations and PIL change one image at
a time in a `Dataset`, put together by a `DataLoader` without workers, as people write it; kornia
changes batches of float images. What a library lacks is replaced by the nearest it has: kornia
multiplies saturation and value instead of adding to them, PIL rotates without reflection.

Also: every transform of resight alone, less the time of normalizing; and augmentation as the
recipe `swift` has it, as a share of its training step. `--px 64` takes images of 64 px, of which
the shares of time differ.
"""

import argparse
import importlib
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import resight
from measure import in_turn, machine, optional, parsed, ratio, spread, write_json
from resight.datasets import Split, Statistics, statistics
from resight.events import EpochDone
from resight.recipe import (
    HSV,
    Affine,
    Augment,
    ColorJitter,
    Crop,
    CutMix,
    Cutout,
    Erasing,
    MixUp,
    ResizedCrop,
    Rotate,
)
from resight.recipe.toml import with_changes
from resight.training.batches import train_batches
from resight.training.loop import fit
from resight.training.network import init_model
from resight.training.state import TrainData, init_state

BATCH, IMAGES = 512, 2048
LEAST_SECS = 0.5  # a measurement: as many passes over the images as that takes

LIGHT = Augment(crop=Crop(pad=4), flip="random", cutout=Cutout(min_px=8, max_px=8))
SETS = {
    "flip, crop, cutout": LIGHT,
    "hsv, rotate, crop, flip, cutout": LIGHT.model_copy(update={"hsv": HSV(), "rotate": Rotate()}),
    "jitter, resized crop, flip": Augment(
        color_jitter=ColorJitter(), resized_crop=ResizedCrop(), flip="random"
    ),
}
SINGLE: dict[str, Any] = {
    "hsv": HSV(prob=1.0),
    "color_jitter": ColorJitter(),
    "rotate": Rotate(prob=1.0),
    "affine": Affine(),
    "trivial_augment": "wide",
    "crop": Crop(),
    "resized_crop": ResizedCrop(),
    "flip": "random",
    "vertical_flip": "random",
    "cutout": Cutout(),
    "erasing": Erasing(prob=1.0),
    "mixup": MixUp(),
    "cutmix": CutMix(),
}

Batches = Callable[[], Iterator[Tensor]]  # a pass over all images: float32 (n, C, H, W) each


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images in memory, each given to a function when it is asked for."""

    def __init__(self, split: Split, transform: Callable[[Any], Tensor]) -> None:
        self.images = split.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, C)
        self.labels = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.images[row]), self.labels[row]


class WithPIL:
    """A recipe's augmentation of one image, written as in torchvision: PIL, NumPy, torch."""

    def __init__(self, spec: Augment, stats: Statistics) -> None:
        self.spec = spec
        self.mean, self.std = (torch.tensor(x).view(-1, 1, 1) for x in (stats.mean, stats.std))

    def __call__(self, pixels: Any) -> Tensor:
        spec = self.spec
        image = Image.fromarray(pixels.squeeze())
        if spec.hsv is not None and random.random() < spec.hsv.prob:
            image = shifted_hsv(image, spec.hsv)
        if spec.color_jitter is not None:
            image = jittered(image, spec.color_jitter)
        if spec.rotate is not None and random.random() < spec.rotate.prob:
            angle = random.uniform(-spec.rotate.limit_deg, spec.rotate.limit_deg)
            image = image.rotate(angle, Image.Resampling.BILINEAR)
        if spec.crop is not None:
            image = cropped(image, spec.crop)
        if spec.resized_crop is not None:
            image = resized_crop(image, spec.resized_crop)
        if spec.flip is not None and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        array = np.array(image)
        levels = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
        x = levels.contiguous().float().div(255).sub_(self.mean).div_(self.std)  # (C, H, W)
        if spec.cutout is not None and random.random() < spec.cutout.prob:
            for _ in range(spec.cutout.count):
                side = random.randint(spec.cutout.min_px, spec.cutout.max_px)
                top, left = (random.randint(0, size - side) for size in x.shape[1:])
                x[:, top : top + side, left : left + side] = 0  # the mean
        return x


def cropped(image: Image.Image, crop: Crop) -> Image.Image:
    """A window of the padded image, at a random place."""
    pad, array = crop.pad, np.asarray(image)
    width = ((pad, pad), (pad, pad), (0, 0))[: array.ndim]
    padded = np.pad(array, width, mode="reflect" if crop.fill == "reflect" else "constant")
    left, top = random.randint(0, 2 * pad), random.randint(0, 2 * pad)
    box = (left, top, left + image.width, top + image.height)
    return Image.fromarray(padded).crop(box)


def shifted_hsv(image: Image.Image, limits: HSV) -> Image.Image:
    """Hue wraps, the others are clipped; PIL has 256 steps of hue where OpenCV has 180."""
    hue, saturation, value = (
        random.randint(-x, x) for x in (limits.hue, limits.saturation, limits.value)
    )
    levels = np.array(image.convert("HSV"), dtype=np.int16)
    levels[..., 0] = (levels[..., 0] + round(hue * 256 / 180)) % 256
    levels[..., 1:] = (levels[..., 1:] + (saturation, value)).clip(0, 255)
    return Image.fromarray(levels.astype(np.uint8), mode="HSV").convert("RGB")


def jittered(image: Image.Image, limits: ColorJitter) -> Image.Image:
    """Three factors and a turn of the hue, in a random order."""
    enhance = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }
    for name in random.sample([*enhance, "hue"], 4):
        by = getattr(limits, name) * random.uniform(-1, 1)
        if name == "hue":
            levels = np.array(image.convert("HSV"))
            levels[..., 0] += np.uint8(round(by * 255) % 256)
            image = Image.fromarray(levels, mode="HSV").convert("RGB")
        else:
            image = enhance[name](image).enhance(1 + by)
    return image


def resized_crop(image: Image.Image, spec: ResizedCrop) -> Image.Image:
    """A random window, enlarged to the size of the image."""
    px = image.width
    for _ in range(10):
        area = px * px * random.uniform(spec.min_scale, spec.max_scale)
        ratio = math.exp(random.uniform(math.log(spec.min_ratio), math.log(spec.max_ratio)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if width <= px and height <= px:
            left, top = random.randint(0, px - width), random.randint(0, px - height)
            box = (left, top, left + width, top + height)
            return image.crop(box).resize(image.size, Image.Resampling.BILINEAR)
    return image


@cache  # said once
def one_by_one(split: Split, transform: Callable[[Any], Tensor]) -> Batches:
    """What a DataLoader without workers makes of a transform for single images."""
    loader = DataLoader(PerImage(split, transform), batch_size=BATCH, shuffle=True)
    return lambda: (images for images, _ in loader)


def with_resight(split: Split, spec: Augment, stats: Statistics) -> Batches:
    """The batches that training takes."""
    return lambda: (
        images for images, _ in train_batches(split, spec, stats, batch_size=BATCH, seed=0, epoch=0)
    )


def with_albumentations(split: Split, spec: Augment, stats: Statistics) -> Batches | None:
    """The same operations; normalized before cutout, so that 0 is the mean, exactly."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer one
    if (A := optional("albumentations")) is None:
        return None
    cv2, torch_side = map(importlib.import_module, ("cv2", "albumentations.pytorch"))
    steps: list[Any] = []
    if spec.hsv is not None:
        hsv = spec.hsv
        steps.append(A.HueSaturationValue(hsv.hue, hsv.saturation, hsv.value, p=hsv.prob))
    if spec.rotate is not None:
        limit, border = spec.rotate.limit_deg, cv2.BORDER_REFLECT_101
        steps.append(A.Rotate(limit=limit, border_mode=border, p=spec.rotate.prob))
    px = split.images.shape[-1]
    if spec.color_jitter is not None:
        steps.append(A.ColorJitter(**limits_of(spec.color_jitter), p=1.0))
    if spec.resized_crop is not None:
        windows = ranges_of(spec.resized_crop)
        steps.append(A.RandomResizedCrop(size=(px, px), **windows, p=1.0))
    if spec.crop is not None:
        border = cv2.BORDER_REFLECT_101
        steps += [A.Pad(padding=4, border_mode=border), A.RandomCrop(px, px)]
    steps += [A.HorizontalFlip(p=0.5), A.Normalize(stats.mean, stats.std)]
    if spec.cutout is not None:
        hole = {"hole_height_range": (8, 8), "hole_width_range": (8, 8)}
        steps.append(A.CoarseDropout(num_holes_range=(1, 1), **hole, p=1.0))
    whole = A.Compose([*steps, torch_side.ToTensorV2()])
    return one_by_one(split, lambda pixels: whole(image=pixels)["image"])


def with_kornia(split: Split, spec: Augment, stats: Statistics) -> Batches | None:
    """Batches of float images; the shifts are of hue, and factors of saturation and value."""
    if (K := optional("kornia.augmentation")) is None:
        return None
    steps: list[Any] = []
    if spec.hsv is not None:
        hsv = spec.hsv
        shifts = {"brightness": hsv.value / 255, "saturation": hsv.saturation / 255}
        steps.append(K.ColorJiggle(**shifts, hue=hsv.hue / 180, p=hsv.prob))
    if spec.rotate is not None:
        limit, border = spec.rotate.limit_deg, "reflection"
        steps.append(K.RandomAffine(limit, padding_mode=border, p=spec.rotate.prob))
    px, cut = split.images.shape[-1], cut_share(split, spec)
    if spec.color_jitter is not None:
        steps.append(K.ColorJitter(**limits_of(spec.color_jitter), p=1.0))
    if spec.resized_crop is not None:
        steps.append(K.RandomResizedCrop((px, px), **ranges_of(spec.resized_crop), p=1.0))
    if spec.crop is not None:
        steps.append(K.RandomCrop((px, px), padding=4, padding_mode="reflect"))
    mean, std = torch.tensor(stats.mean), torch.tensor(stats.std)
    steps += [K.RandomHorizontalFlip(p=0.5), K.Normalize(mean, std)]
    if spec.cutout is not None:
        steps.append(K.RandomErasing(scale=(cut, cut), ratio=(1.0, 1.0), value=0.0, p=1.0))
    whole = K.AugmentationSequential(*steps, data_keys=["input"])

    def batches() -> Iterator[Tensor]:
        order = torch.randperm(len(split))
        for first in range(0, len(split), BATCH):
            yield whole(split.images[order[first : first + BATCH]].float() / 255)

    return batches


def limits_of(spec: ColorJitter) -> dict[str, float]:
    """The limits of a color jitter, by the names that other libraries have too."""
    return {name: getattr(spec, name) for name in ("brightness", "contrast", "saturation", "hue")}


def ranges_of(spec: ResizedCrop) -> dict[str, tuple[float, float]]:
    """The ranges of a resized crop, by the names that other libraries have too."""
    return {
        "scale": (spec.min_scale, spec.max_scale),
        "ratio": (spec.min_ratio, spec.max_ratio),
    }


def cut_share(split: Split, spec: Augment) -> float:
    """The share of the pixels that every side has to blank."""
    return 8 * 8 / split.images.shape[-1] ** 2 if spec.cutout is not None else 0.0


def check(name: str, batches: Batches, split: Split, spec: Augment) -> None:
    """Every side has to give all images, normalized, and cut out as many pixels."""
    images = torch.cat(list(batches()))
    blank, cut = float((images == 0).all(dim=1).float().mean()), cut_share(split, spec)
    if images.shape != split.images.shape or images.dtype != torch.float32:
        sys.exit(f"{name} gives {images.dtype} {tuple(images.shape)}")
    if abs(blank - cut) > 1e-3 or abs(float(images.mean())) > 0.5:
        sys.exit(f"{name} blanks {blank:.4f} of the pixels, mean {float(images.mean()):.2f}")


def timed(batches: Batches) -> float:
    """Microseconds an image."""
    began, done = time.perf_counter(), 0
    while (secs := time.perf_counter() - began) < LEAST_SECS:
        done += sum(len(images) for images in batches())
    return 1e6 * secs / done


def compare(split: Split, spec: Augment, stats: Statistics, rounds: int) -> dict[str, Any]:
    """All sides in turn; ratios are of the same round, above 1 where resight is faster."""
    found = {
        "resight": with_resight(split, spec, stats),
        "albumentations": with_albumentations(split, spec, stats),
        "kornia": with_kornia(split, spec, stats),
        "PIL": one_by_one(split, WithPIL(spec, stats)),
    }
    work = {name: batches for name, batches in found.items() if batches is not None}
    for name, batches in work.items():
        check(name, batches, split, spec)
    figures = in_turn(
        {name: lambda batches=batches: timed(batches) for name, batches in work.items()},  # type: ignore[misc]
        rounds,
        lambda line: print(f"  {line} us", file=sys.stderr),
    )
    return {
        "us": {name: spread(values) for name, values in figures.items()},
        "ratio": {name: ratio(values, figures["resight"]) for name, values in figures.items()},
    }


def singles(split: Split, stats: Statistics, rounds: int) -> dict[str, Any]:
    """Microseconds an image of each transform of resight on every image, less normalizing."""
    work = {"none": with_resight(split, Augment(), stats)}
    work |= {
        name: with_resight(split, Augment(**{name: spec}), stats) for name, spec in SINGLE.items()
    }
    figures = in_turn(
        {name: lambda batches=batches: timed(batches) for name, batches in work.items()},  # type: ignore[misc]
        rounds,
        lambda line: print(f"  {line} us", file=sys.stderr),
    )
    plain = figures.pop("none")
    return {
        name: spread([value - none for value, none in zip(values, plain, strict=True)])
        for name, values in figures.items()
    }


def share_of_step(split: Split, stats: Statistics, rounds: int) -> dict[str, float]:
    """Seconds of augmentation over those of an epoch's steps, of which it is a part."""
    recipe = resight.with_epochs(resight.load_recipe("swift"), rounds + 1)
    slow = {"optimizer": {"lr": 0.01}, "training": {"select": "last"}}  # labels mean nothing here
    recipe = with_changes(recipe, slow, origin="bench")
    data = TrainData(split, None, stats, tuple(map(str, range(10))))
    events = fit(init_state(recipe, data, init_model(recipe, data)), recipe, data)

    def step() -> float:
        began = time.perf_counter()
        next(event for event in events if isinstance(event, EpochDone))
        return 1e6 * (time.perf_counter() - began) / len(split)

    augmented = with_resight(split, recipe.augment, stats)
    figures = in_turn(
        {"augmentation": lambda: timed(augmented), "step": step},
        rounds,
        lambda line: print(f"  swift, {line} us", file=sys.stderr),
    )
    return ratio(figures["augmentation"], figures["step"])


def main() -> None:
    """Parse the arguments, measure, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--px", type=int, default=32)
    arguments = parsed(parser)
    where = machine()
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, 3, arguments.px, arguments.px)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (IMAGES,), generator=generator)
    split = Split(images, labels, tuple(map(str, range(IMAGES))))
    stats = statistics(split)
    results = {}
    for name, spec in SETS.items():
        print(name, file=sys.stderr)
        results[name] = compare(split, spec, stats, arguments.rounds)
    alone = singles(split, stats, arguments.rounds)
    share = share_of_step(split, stats, arguments.rounds)
    print(f"\n| {'':32} | {'side':14} | us | ratio | min | max |", file=sys.stderr)
    print("|---|---|---:|---:|---:|---:|", file=sys.stderr)
    for name, result in results.items():
        for side, times in result["ratio"].items():
            row = " | ".join(f"{x:.1f}" for x in (result["us"][side]["median"], *times.values()))
            print(f"| {name:32} | {side:14} | {row} |", file=sys.stderr)
    for name, values in alone.items():
        print(f"| {name:32} | alone | {values['median']:.1f} |", file=sys.stderr)
    print(f"share of a step of swift: {share['median']:.4f}", file=sys.stderr)
    write_json(
        {"machine": where, "results": results, "alone_us": alone, "share_of_swift_step": share}
    )


if __name__ == "__main__":
    main()
