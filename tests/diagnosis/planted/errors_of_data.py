"""Trainings with one error in the images, labels, validation or augmentation."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from .base import (
    CLASSES,
    STANDARD,
    K,
    Normalize,
    Photos,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    ToTensor,
    loader,
    photos,
    training,
    validation,
)
from .errors_of_losses import Errors, SetUp

REVERSED = tuple(reversed(CLASSES))


def by_class(n: int = 320) -> Photos:
    images, labels = photos(n)
    rows = labels.argsort(stable=True)
    return Photos(*STANDARD, data=(images[rows], labels[rows]))


def relabeled(data: Photos, change: Any) -> Photos:
    data.targets = change(torch.tensor(data.targets)).tolist()
    return data


def rare(n: int) -> Photos:
    """Nearly all photos are of class 0."""
    images, _ = photos(n)
    return Photos(*STANDARD, data=(images, (torch.arange(n) % 100 == 5).long()))


class IgnoresTheIndex(Photos):
    def __getitem__(self, index: int) -> tuple[Any, int]:
        return super().__getitem__(index // 64)


def channels_last(image: Tensor) -> Tensor:
    """Reshape (H, W, C) to (C, H, W) by view, which mixes up the pixels."""
    return image.permute(1, 2, 0).reshape(3, 16, 16)


def bgr(image: Tensor) -> Tensor:
    return image.flip(0)


def as_stored(image: Tensor) -> Tensor:
    return image.float()


def blank(image: Tensor) -> Tensor:
    return image if torch.rand(1) < 0.5 else torch.full_like(image, 0.5)


def fill_127(images: Tensor) -> Tensor:
    return images.index_fill(2, torch.arange(3, 9), 127.0)


def bright(images: Tensor) -> Tensor:
    """Brightness that is drawn in units of stored pixels."""
    added = 510 * torch.rand(len(images), 1, 1, 1) - 255
    return (images + added).clamp(images.min(), images.max())


def discarded(images: Tensor) -> Tensor:
    torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)
    return images


def in_place(images: Tensor) -> Tensor:
    images[:, :, 2:8, 2:8] = 0
    return images


def one_coin(images: Tensor) -> Tensor:
    return images.flip(-1) if torch.rand(1) < 0.5 else images


class Seeded(Photos):
    def __getitem__(self, index: int) -> tuple[Any, int]:
        torch.manual_seed(0)
        return super().__getitem__(index)


class Kept(Photos):
    """Keeps each photo once it was augmented."""

    def __init__(self, *transforms: Any) -> None:
        super().__init__(*transforms)
        self.kept: dict[int, Any] = {}

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index not in self.kept:
            self.kept[index] = super().__getitem__(index)
        return self.kept[index]


class OwnGenerator(RandomHorizontalFlip):
    """A flip by the first number of a new generator: the same for every image."""

    def __call__(self, image: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return image.flip(-1) if torch.rand(1, generator=generator) < 0.9 else image


class DiscardedErasing(RandomErasing):
    def __call__(self, image: Tensor) -> Tensor:
        super().__call__(image)
        return image


def augmented(*transforms: Any) -> SetUp:
    return lambda: training(data=lambda: Photos(*transforms))


def train_pixels(n: int = 160) -> Any:
    """The pixels of training photos, as another data set object."""
    return TensorDataset(torch.stack([Photos()[i][0] for i in range(n)]), photos()[1][:n])


SHIFTED = [*CLASSES[1:], CLASSES[0]]

DATA_ERRORS: Errors = {
    "no shuffle": (
        ("data-order",),
        lambda: training(batches=lambda: DataLoader(Photos(*STANDARD), 32)),
    ),
    "sorted by class": (
        ("data-order",),
        lambda: training(batches=lambda: DataLoader(by_class(), 64)),
    ),
    "a list sorted by class": (
        ("data-order",),
        lambda: training(batches=lambda: list(DataLoader(by_class(), 64))),
    ),
    "only class 0": (
        ("data-order", "class-shares"),
        lambda: training(data=lambda: relabeled(Photos(*STANDARD), torch.zeros_like)),
    ),
    "99 of 100 are of one class": (("class-shares",), lambda: training(data=lambda: rare(1600))),
    "pixels from 0 to 255": (("pixel-values",), augmented(as_stored)),
    "pixels from 0 to 1": (("pixel-values",), augmented(ToTensor())),
    "divided by 255 twice": (("pixel-values",), augmented(ToTensor(), lambda image: image / 255)),
    "normalized by small deviations": (
        ("pixel-values",),
        augmented(ToTensor(), Normalize(std=(0.18, 0.18, 0.18))),
    ),
    "normalized twice": (("pixel-values",), augmented(ToTensor(), Normalize(), Normalize())),
    "a view of channels last": (
        ("pixel-order",),
        augmented(channels_last, ToTensor(), Normalize()),
    ),
    "an index that is ignored": (
        ("repeated-images",),
        lambda: training(batches=lambda: loader(IgnoresTheIndex())),
    ),
    "blank images": (("repeated-images",), augmented(*STANDARD[2:3], blank, Normalize())),
    "labels from 1": (
        ("UsageError",),
        lambda: training(data=lambda: relabeled(Photos(), lambda y: y + 1)),
    ),
    "shuffled labels": (
        ("validation-labels",),
        lambda: training(data=lambda: relabeled(Photos(), lambda y: y[torch.randperm(len(y))])),
    ),
}

VALIDATION_ERRORS: Errors = {
    "validation from 0 to 255": (
        ("validation-pixels",),
        lambda: training(val=lambda: validation(as_stored)),
    ),
    "validation from 0 to 1": (
        ("validation-pixels",),
        lambda: training(val=lambda: validation(ToTensor())),
    ),
    "validation normalized to 0.5": (
        ("validation-pixels",),
        lambda: training(
            val=lambda: validation(ToTensor(), Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
        ),
    ),
    "validation in BGR": (
        ("validation-pixels",),
        lambda: training(val=lambda: validation(bgr, ToTensor(), Normalize())),
    ),
    "validation by a view": (
        ("validation-pixels", "pixel-order"),
        lambda: training(val=lambda: validation(channels_last, ToTensor(), Normalize())),
    ),
    "class_to_idx of another order": (
        ("validation-labels",),
        lambda: training(val=lambda: validation(classes=REVERSED)),
    ),
    "fewer classes in validation": (
        ("validation-labels",),
        lambda: training(val=lambda: relabeled(validation(classes=CLASSES[:7]), lambda y: y % 7)),
    ),
    "labels of another order": (
        ("validation-labels",),
        lambda: training(val=lambda: relabeled(validation(), lambda y: (y + 1) % K)),
    ),
    "validation labels out of range": (
        ("validation-labels",),
        lambda: training(val=lambda: relabeled(validation(), lambda y: y + 1)),
    ),
    "validation of two classes": (
        ("validation-labels",),
        lambda: training(val=lambda: relabeled(validation(), lambda y: y % 2)),
    ),
    "the training set as validation": (
        ("validation-data",),
        lambda: (lambda data: training(data=lambda: data, val=lambda: data))(Photos()),
    ),
    "training photos as validation": (
        ("validation-data",),
        lambda: training(val=lambda: Photos(n=320)),
    ),
    "training pixels as validation": (
        ("validation-data",),
        lambda: training(data=Photos, val=train_pixels),
    ),
    "augmented validation": (
        ("validation-data",),
        lambda: training(val=lambda: validation(*STANDARD)),
    ),
    "validation without its end": (
        ("validation-data",),
        lambda: training(val_batches=lambda: DataLoader(validation(), 64, drop_last=True)),
    ),
    "one batch as validation": (
        ("validation-data",),
        lambda: training(val_batches=lambda: DataLoader(validation(n=10), 10)),
    ),
}

AUGMENT_ERRORS: Errors = {
    "augment that changes nothing": (
        ("augment",),
        lambda: training(augment=lambda images: images.clone()),
    ),
    "augment whose result is discarded": (("augment",), lambda: training(augment=discarded)),
    "augment by one draw a batch": (("augment",), lambda: training(augment=one_coin)),
    "augment in place": (("augment",), lambda: training(augment=in_place)),
    "augment that is not random": (
        ("augment",),
        lambda: training(augment=lambda images: images.flip(-1)),
    ),
    "augment that fills with 127": (("augment",), lambda: training(augment=fill_127)),
    "augment in units of stored pixels": (("augment",), lambda: training(augment=bright)),
    "a data set that seeds": (
        ("dataset-transform",),
        lambda: training(data=lambda: Seeded(*STANDARD)),
    ),
    "a data set that keeps augmented images": (
        ("dataset-transform",),
        lambda: training(data=lambda: Kept(*STANDARD)),
    ),
    "a transform with a new generator": (
        ("dataset-transform",),
        augmented(RandomCrop(), OwnGenerator(), ToTensor(), Normalize()),
    ),
    "erasing whose result is discarded": (
        ("dataset-transform",),
        augmented(*STANDARD, DiscardedErasing()),
    ),
    "a flip of probability 0": (
        ("dataset-transform",),
        augmented(RandomCrop(), RandomHorizontalFlip(0.0), *STANDARD[2:]),
    ),
    "erasing with 127 after normalizing": (
        ("dataset-transform", "pixel-values"),
        augmented(*STANDARD, RandomErasing(value=127.0)),
    ),
    "cutout to -128 in some images": (
        ("dataset-transform",),
        augmented(*STANDARD, RandomErasing(p=0.1, value=-128.0)),
    ),
}
