"""Attributes of pictures: measured as drawn, and changed as told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import resight
from resight.datasets import Split
from resight.interpret.causes.attributes import (
    ATTRIBUTES,
    Attribute,
    attribute_values,
    blur,
    compressed,
    with_values,
    zoomed,
)

NAMES = [attribute.name for attribute in ATTRIBUTES]


def attribute(name: str) -> Attribute:
    return ATTRIBUTES[NAMES.index(name)]


def smooth_pictures(count: int, channels: int = 3) -> Tensor:
    """Colors that run into each other, with some grain, (count, C, 32, 32) from 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")
    grain = 0.03 * torch.randn(images.shape, generator=generator)
    return (0.2 + 0.6 * images + grain).clamp(0, 1)


def values(images: Tensor, name: str) -> np.ndarray:
    measure = attribute(name).measure
    assert measure is not None
    return measure(images).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "sharpness", "saturation"])
def test_an_attribute_can_be_given_to_a_picture(name: str, channels: int) -> None:
    if (name, channels) == ("saturation", 1):
        return  # gray pictures have none
    images, rows = (255 * smooth_pictures(30, channels)).byte(), np.arange(30)
    split = Split(images, torch.zeros(30, dtype=torch.int64), tuple(map(str, rows)))
    k = NAMES.index(name)
    before = attribute_values(split, rows)[:, k]
    # A blur lowers the sharpness, whatever is asked for.
    targets = before - 1 if name == "sharpness" else 0.7 * before
    changed = Split(with_values(images, ATTRIBUTES[k], targets), split.labels, split.ids)
    after = attribute_values(changed, rows)[:, k]
    assert np.abs(after - targets).max() < 0.35 * np.abs(targets - before).max()


def test_a_blur_is_the_sum_over_a_gaussian_window() -> None:
    images = smooth_pictures(2)
    weights = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    weights /= weights.sum()
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode="edge")
    expected = sum(
        weights[i] * weights[j] * padded[..., i : i + 32, j : j + 32]
        for i in range(7)
        for j in range(7)
    )
    assert np.allclose(blur(images, 1.0).numpy(), expected, atol=1e-5)


def test_compression_is_measured_at_its_grid() -> None:
    images = smooth_pictures(40)
    medians = [np.median(values(compressed(images, q), "compression")) for q in (90, 20, 10, 5)]
    assert medians == sorted(medians)
    coarse = compressed(images, 10)
    moved = coarse.roll((4, 4), dims=(2, 3))  # the grid lies elsewhere
    assert np.median(values(coarse, "compression")) > np.median(values(moved, "compression")) + 0.5
    assert compressed(smooth_pictures(2, 1), 50).shape == (2, 1, 32, 32)


def test_a_picture_can_be_compressed_as_much_as_another() -> None:
    images = smooth_pictures(40)
    targets = values(compressed(images, 8), "compression")
    changed = attribute("compression").change(images, torch.from_numpy(targets))
    distance = np.abs(values(changed, "compression") - targets)
    assert np.median(distance) < 0.2 * np.median(np.abs(values(images, "compression") - targets))


def test_the_size_of_a_subject_is_that_of_what_has_details() -> None:
    generator, images = torch.Generator().manual_seed(0), torch.full((5, 3, 32, 32), 0.5)
    sides = (4, 8, 14, 20, 32)
    for image, side in zip(images, sides, strict=True):
        at = slice((32 - side) // 2, (32 + side) // 2)
        image[:, at, at] = torch.rand(3, side, side, generator=generator)
    sizes = values(images, "size of the subject")
    assert sizes.tolist() == sorted(sizes.tolist())
    assert sizes[0] < 0.1
    assert sizes[-1] > 0.8
    assert np.allclose(values(0.5 + (images - 0.5) / 5, "size of the subject"), sizes, atol=0.02)


def test_a_subject_is_made_smaller_and_larger() -> None:
    images = smooth_pictures(20)
    small = zoomed(images, 0.5)
    sizes = [values(part, "size of the subject") for part in (images, small)]
    change = attribute("size of the subject").change
    shrunk = change(images, torch.from_numpy(sizes[1]))
    assert np.abs(values(shrunk, "size of the subject") - sizes[1]).max() < 0.1
    grown = change(small, torch.from_numpy(sizes[0]))
    # The middle of the enlarged picture is that of the picture before, but for its sharpness.
    assert (grown - images).abs().mean() < 0.5 * (small - images).abs().mean()
    assert torch.equal(change(images, torch.from_numpy(sizes[0])), images)


def test_the_size_before_resizing_is_that_of_the_files(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for part, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        folder = tmp_path / part / name
        folder.mkdir(parents=True)
        for k, side in enumerate((20, 48, 100, 90)):
            pixels = generator.integers(0, 256, (side, side + 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{k}.png")
    split = resight.data(tmp_path).test
    side = split.shape[-1]
    rows = np.arange(len(split))
    files = [int(Path(name).stem) for name in split.ids]
    expected = [min(side, (20, 48, 100, 90)[k]) for k in files]
    assert attribute_values(split, rows)[:, -1].tolist() == expected
    without = Split(split.images, split.labels, split.ids)
    assert np.isnan(attribute_values(without, rows)[:, -1]).all()
    same = split.select(torch.tensor([row for row in rows.tolist() if expected[row] == side]))
    assert np.isnan(attribute_values(same, np.arange(len(same)))[:, -1]).all()  # nothing differs


def test_a_picture_can_come_from_few_pixels() -> None:
    images = smooth_pictures(4)
    change = attribute("size before resizing").change
    assert torch.equal(change(images, torch.tensor([32.0, 40, 32, 100])), images)
    few = change(images, torch.tensor([8.0, 8, 16, 32]))
    steps = [(image - other).abs().mean() for image, other in zip(images, few, strict=True)]
    assert min(steps[:2]) > steps[2] > steps[3] == 0
