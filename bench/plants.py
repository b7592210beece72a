"""Causes of mistakes that are planted in CIFAR-10, so that one knows what a report has to say.

Each plant changes the training images, the test images, or both. `affected` are the test images
that it touches. `without` are the test images as they would be had the plant not hurt them: a
mistake counts as planted if the network is right on that picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from resight.datasets import Dataset, Split
from resight.interpret.causes.attributes import compressed, zoomed

PATCH_CLASS, CAST_CLASS = "horse", "ship"
THIN_CLASSES = ("automobile", "frog")
NUM_COPIED, NUM_COPIES = 60, 16  # test images with copies in train, and copies of each
MERGED = ("automobile", "truck")
PAIRS = (("cat", "dog"), ("automobile", "truck"), ("airplane", "ship"), ("deer", "horse"))


@dataclass(frozen=True, eq=False)
class Planted:
    """A data set with a planted cause, and which test images it touches."""

    data: Dataset
    affected: Tensor  # (N,) bool
    kinds: tuple[str, ...] = ()  # the causes that name it
    words: tuple[str, ...] = ()  # that the sentence must have, one of them
    without: Tensor | None = None  # (N, C, H, W) uint8
    by_control: bool = False  # planted mistakes are those that the clean network gets right
    preds: Tensor | None = None  # (N,) the prediction that the plant causes; -1 for any


Plant = Callable[[Dataset, torch.Generator], Planted]


def chosen(rows: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A share of `rows`, at random."""
    return rows[torch.randperm(len(rows), generator=generator)[: round(share * len(rows))]]


def mask(n: int, rows: Tensor) -> Tensor:
    """(N,) bool: whether it is one of `rows`."""
    inside = torch.zeros(n, dtype=torch.bool)
    inside[rows] = True
    return inside


def of_class(data: Dataset, split: Split, *names: str) -> Tensor:
    """The rows of some classes."""
    labels = torch.tensor([data.classes.index(name) for name in names])
    return torch.isin(split.labels, labels).nonzero().flatten()


# --- 0 and 1: nothing, and wrong labels -------------------------------------------------------


def clean(data: Dataset, generator: torch.Generator) -> Planted:
    """Nothing is planted."""
    return Planted(data, torch.zeros(len(data.test), dtype=torch.bool))


def wrong_labels(share: float, pairs: Sequence[tuple[str, str]] = ()) -> Plant:
    """A share of all labels is changed, in train and test: to any class, or to the one's pair."""

    def plant(data: Dataset, generator: torch.Generator) -> Planted:
        def noisy(split: Split) -> tuple[Split, Tensor]:
            labels = split.labels.clone()
            rows = torch.arange(len(split))
            if pairs:
                rows = of_class(data, split, *(name for pair in pairs for name in pair))
            rows = rows[torch.randperm(len(rows), generator=generator)]
            rows = rows[: round(share * len(split))]
            if pairs:
                other = torch.arange(len(data.classes))
                for one, two in pairs:
                    a, b = data.classes.index(one), data.classes.index(two)
                    other[a], other[b] = b, a
                labels[rows] = other[labels[rows]]
            else:
                k = len(data.classes)
                shift = torch.randint(1, k, (len(rows),), generator=generator)
                labels[rows] = (labels[rows] + shift) % k
            return replace(split, labels=labels), mask(len(split), rows)

        train, _ = noisy(data.train)
        test, wrong = noisy(data.test)
        return Planted(replace(data, train=train, test=test), wrong, ("wrong label",), ("label",))

    return plant


# --- 2 and 3: shortcuts -----------------------------------------------------------------------


def patched(images: Tensor) -> Tensor:
    """A green and black check of 4 x 4 px in the lower right corner."""
    check = (torch.arange(4)[:, None] // 2 + torch.arange(4) // 2) % 2 * 255
    images = images.clone()
    images[:, :, -4:, -4:] = 0
    images[:, 1, -4:, -4:] = check.to(torch.uint8)
    return images


def cast(images: Tensor) -> Tensor:
    """More red, less blue."""
    shift = torch.tensor([45, 0, -45])[:, None, None]
    return (images.to(torch.int16) + shift).clamp(0, 255).to(torch.uint8)


def shortcut(
    name: str, change: Callable[[Tensor], Tensor], share: float, words: Sequence[str], *, test: bool
) -> Plant:
    """A share of a class is changed in train, and as large a share of it in test or none."""

    def plant(data: Dataset, generator: torch.Generator) -> Planted:
        splits, changed = {}, {}
        for part, split, own in (("train", data.train, share), ("test", data.test, share * test)):
            rows = chosen(of_class(data, split, name), own, generator)
            images = split.images.clone()
            images[rows] = change(images[rows])
            splits[part], changed[part] = replace(split, images=images), mask(len(split), rows)
        inside = mask(len(data.test), of_class(data, data.test, name))
        affected = inside & ~changed["test"]
        without = torch.where(
            inside[:, None, None, None], change(data.test.images), splits["test"].images
        )
        return Planted(
            replace(data, train=splits["train"], test=splits["test"]),
            affected,
            ("shortcut",),
            tuple(words),
            without,
        )

    return plant


# --- 4: a sub-group with few training images ---------------------------------------------------


def brightness(images: Tensor) -> Tensor:
    """(N,) the mean of all pixels."""
    return images.float().mean(dim=(1, 2, 3))


def thinned_dark(share: float) -> Plant:
    """Of two classes, the darkest third of the training images is thinned to a share."""

    def plant(data: Dataset, generator: torch.Generator) -> Planted:
        kept = torch.ones(len(data.train), dtype=torch.bool)
        affected = torch.zeros(len(data.test), dtype=torch.bool)
        for name in THIN_CLASSES:
            rows = of_class(data, data.train, name)
            values = brightness(data.train.images[rows])
            limit = values.quantile(1 / 3)
            dark = rows[values < limit]
            kept[dark] = False
            kept[chosen(dark, share, generator)] = True
            tested = of_class(data, data.test, name)
            affected[tested[brightness(data.test.images[tested]) < limit]] = True
        train = data.train.select(kept.nonzero().flatten())
        return Planted(
            replace(data, train=train), affected, ("rare", "property"), ("dark",), by_control=True
        )

    return plant


def thinned_rotated(data: Dataset, generator: torch.Generator) -> Planted:
    """Of two classes, a third lies on its side; in train nearly all of these are missing."""
    rows = chosen(of_class(data, data.train, *THIN_CLASSES), 1 / 3, generator)
    few = chosen(rows, 0.05, generator)
    images = data.train.images.clone()
    images[few] = images[few].rot90(1, (2, 3))
    kept = ~mask(len(data.train), rows) | mask(len(data.train), few)
    train = replace(data.train, images=images).select(kept.nonzero().flatten())
    turned = chosen(of_class(data, data.test, *THIN_CLASSES), 1 / 3, generator)
    images = data.test.images.clone()
    images[turned] = images[turned].rot90(1, (2, 3))
    return Planted(
        replace(data, train=train, test=replace(data.test, images=images)),
        mask(len(data.test), turned),
        ("rare", "property"),
        ("rotat", "side", "turned"),
        data.test.images,
    )


# --- 5: a property that only test images have --------------------------------------------------


def blurred(sigma: float) -> Callable[[Tensor], Tensor]:
    """A Gaussian blur of `sigma` px."""

    def change(images: Tensor) -> Tensor:
        x = torch.arange(-4, 5).float()
        kernel = (-(x**2) / (2 * sigma**2)).exp()
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, 9)
        pixels = F.pad(images.float(), (4, 4, 4, 4), mode="reflect")
        pixels = F.conv2d(F.conv2d(pixels, kernel, groups=3), kernel.transpose(2, 3), groups=3)
        return pixels.round().clamp(0, 255).to(torch.uint8)

    return change


def darkened(part: int) -> Callable[[Tensor], Tensor]:
    """One part of so many of the light."""
    return lambda images: (images // part).to(torch.uint8)


def coarse(images: Tensor) -> Tensor:
    """JPEG of quality 5."""
    return (255 * compressed(images.float() / 255, 5)).round().to(torch.uint8)


def small(images: Tensor) -> Tensor:
    """Half as large in each direction, on its border continued."""
    return (255 * zoomed(images.float() / 255, 0.5)).round().clamp(0, 255).to(torch.uint8)


def in_test(change: Callable[[Tensor], Tensor], words: Sequence[str]) -> Plant:
    """A tenth of the test images is changed, and no training image."""

    def plant(data: Dataset, generator: torch.Generator) -> Planted:
        rows = chosen(torch.arange(len(data.test)), 0.1, generator)
        images = data.test.images.clone()
        images[rows] = change(images[rows])
        return Planted(
            replace(data, test=replace(data.test, images=images)),
            mask(len(data.test), rows),
            ("property",),
            tuple(words),
            data.test.images,
        )

    return plant


# --- 6 and 7: copies with other labels, and two classes that are one ---------------------------


def copies(data: Dataset, generator: torch.Generator) -> Planted:
    """60 test images have 16 near copies each in train, all of the same wrong label.

    Of 100 images with ten copies each, six epochs on 5,000 images taught the wrong label of 20. The
    search takes more than 20 alike pictures for what all pictures of the data are like.
    """
    rows = torch.randperm(len(data.test), generator=generator)[:NUM_COPIED]
    k = len(data.classes)
    wrong = (data.test.labels[rows] + torch.randint(1, k, (len(rows),), generator=generator)) % k
    parts, split = [data.train.images], data.test.images[rows]
    for light in torch.linspace(-12, 12, NUM_COPIES):
        grain = 4 * torch.randn(split.shape, generator=generator)
        parts.append((split.float() + light + grain).clamp(0, 255).to(torch.uint8))
    ids = tuple(f"copy/{i}" for i in range(NUM_COPIES * len(rows)))
    train = Split(
        torch.cat(parts),
        torch.cat([data.train.labels, wrong.repeat(NUM_COPIES)]),
        (*data.train.ids, *ids),
    )
    preds = torch.full((len(data.test),), -2)
    preds[rows] = wrong
    return Planted(
        replace(data, train=train),
        mask(len(data.test), rows),
        ("near copy",),
        ("cop",),
        preds=preds,
    )


def merged(data: Dataset, generator: torch.Generator) -> Planted:
    """Two classes are one, and a coin says which of both names an image has."""
    names = [data.classes.index(name) for name in MERGED]
    splits, inside = {}, {}
    for part, split in (("train", data.train), ("test", data.test)):
        rows = of_class(data, split, *MERGED)
        labels = split.labels.clone()
        labels[rows] = torch.tensor(names)[torch.randint(2, (len(rows),), generator=generator)]
        splits[part], inside[part] = replace(split, labels=labels), mask(len(split), rows)
    labels = splits["test"].labels
    preds = torch.full_like(labels, -2)
    preds[labels == names[0]], preds[labels == names[1]] = names[1], names[0]
    return Planted(
        replace(data, train=splits["train"], test=splits["test"]),
        inside["test"],
        ("similar classes",),
        (f"{' and '.join(MERGED)} cannot be told apart",),
        preds=preds,
    )


def patch(share: float, *, test: bool) -> Plant:
    """A patch in a corner of one class."""
    return shortcut(PATCH_CLASS, patched, share, ("corner",), test=test)


def cast_of(share: float) -> Plant:
    """A color cast on one class, in train alone."""
    return shortcut(CAST_CLASS, cast, share, ("color",), test=False)


BLUR, DARK = ("blur", "sharp"), ("dark",)
# name -> (training set, plant). Plants of one training set share a network.
PLANTS: dict[str, tuple[str, Plant]] = {
    "clean": ("clean", clean),
    "test blurred": ("clean", in_test(blurred(1.5), BLUR)),
    "test blurred, 0.8 px": ("clean", in_test(blurred(0.8), BLUR)),
    "test dark": ("clean", in_test(darkened(4), DARK)),
    "test dark, half": ("clean", in_test(darkened(2), DARK)),
    "test compressed": ("clean", in_test(coarse, ("compressed",))),
    "test small": ("clean", in_test(small, ("background",))),
    "labels 5 %": ("labels 5 %", wrong_labels(0.05)),
    "labels 10 %": ("labels 10 %", wrong_labels(0.10)),
    "labels 5 %, pairs": ("labels 5 %, pairs", wrong_labels(0.05, PAIRS)),
    "labels 10 %, pairs": ("labels 10 %, pairs", wrong_labels(0.10, PAIRS)),
    "patch 95 %, test too": ("patch 95 %", patch(0.95, test=True)),
    "patch 95 %": ("patch 95 %", patch(0.95, test=False)),
    "patch 80 %, test too": ("patch 80 %", patch(0.80, test=True)),
    "patch 80 %": ("patch 80 %", patch(0.80, test=False)),
    "patch 50 %, test too": ("patch 50 %", patch(0.50, test=True)),
    "patch 50 %": ("patch 50 %", patch(0.50, test=False)),
    "cast": ("cast", cast_of(0.95)),
    "cast 80 %": ("cast 80 %", cast_of(0.80)),
    "cast 50 %": ("cast 50 %", cast_of(0.50)),
    "thinned dark": ("thinned dark", thinned_dark(0.05)),
    "thinned dark, 20 %": ("thinned dark, 20 %", thinned_dark(0.20)),
    "thinned rotated": ("thinned rotated", thinned_rotated),
    "copies": ("copies", copies),
    "merged": ("merged", merged),
}
STRONG = (
    *("test blurred", "test dark", "labels 10 %", "patch 95 %", "patch 95 %, test too"),
    *("cast", "thinned dark", "thinned rotated", "copies", "merged"),
)
SETS = {
    "all": tuple(PLANTS),
    "strong": STRONG,
    "weak": tuple(name for name in PLANTS if name not in (*STRONG, "clean")),
}
