"""Near copies across splits: planted ones are found, and images that are alike are not."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import resight
from resight.datasets import Dataset, Split
from resight.diagnosis.copy_pairs import copy_pairs, write_pairs
from resight.diagnosis.dataset_checks import DATASET_CHECKS
from resight.diagnosis.dataset_probe import DatasetProbe
from resight.diagnosis.issues import apply_checks
from resight.diagnosis.near_copies import near_copies
from resight.files import read_csv

NUM_TRAIN, NUM_TEST, SIDE = 600, 120, 32


def scenes(count: int, seed: int) -> Tensor:
    """Return images (N, 3, 32, 32) of noise whose amplitude falls with frequency, as in photos."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]) * SIDE
    spectra = np.fft.rfft2(rng.normal(size=(count, 3, SIDE, SIDE))) / (1 + frequency)
    gray = np.fft.irfft2(spectra.mean(axis=1, keepdims=True) * 3 + 0.3 * spectra)
    scaled = 128 + 45 * gray / gray.std(axis=(1, 2, 3), keepdims=True)
    return torch.from_numpy(scaled.clip(0, 255).astype(np.uint8))


def split(images: Tensor, prefix: str) -> Split:
    ids = tuple(f"{prefix}/{k}" for k in range(len(images)))
    return Split(images, torch.arange(len(images)) % 3, ids)


def recompressed(image: Tensor) -> Tensor:
    content = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, "JPEG", quality=50)
    return torch.from_numpy(np.array(Image.open(content))).permute(2, 0, 1)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "recompressed": recompressed,
    "darker": lambda image: image // 2 + 20,
    "mirrored": lambda image: image.flip(-1),
    "mirrored and recompressed": lambda image: recompressed(image.flip(-1)),
    "moved": lambda image: image.roll((2, -1), dims=(1, 2)),
    "mirrored and moved": lambda image: image.flip(-1).roll((-3, 2), dims=(1, 2)),
}


@pytest.fixture(scope="module")
def planted() -> Dataset:
    """Test image k is a copy of training image 9 + k by the k-th change, in the same class."""
    train, test = scenes(NUM_TRAIN, 0), scenes(NUM_TEST, 1)
    for k, change in enumerate(CHANGES.values()):
        test[k] = change(train[9 + k])
    classes = ("disc", "bar", "frame")
    return Dataset("planted", classes, split(train, "train"), split(test, "test"))


def test_planted_copies_are_found_and_no_others(planted: Dataset) -> None:
    pairs = near_copies(planted.test, planted.train)
    assert pairs.num_searched == NUM_TEST
    assert pairs.rows.tolist() == list(range(len(CHANGES)))
    assert pairs.matches.tolist() == [9 + k for k in range(len(CHANGES))]


def test_larger_images_are_compared_by_their_small_pictures(planted: Dataset) -> None:
    large = [
        replace(part, images=part.images.repeat_interleave(3, 2).repeat_interleave(3, 3))
        for part in (planted.test, planted.train)
    ]
    assert near_copies(*large).rows.tolist() == list(range(len(CHANGES)))


@pytest.mark.parametrize("kind", ["digits", "noise", "flat", "blank", "icons"])
def test_images_that_are_alike_are_no_copies(kind: str, tiny: Dataset) -> None:
    generator = torch.Generator().manual_seed(3)
    colors = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200]])[:, :, None, None]
    icons = torch.randint(0, 255, (3, 3, 8, 8), generator=generator)
    icons = icons.repeat_interleave(4, 2).repeat_interleave(4, 3)

    def noisy(pictures: Tensor, count: int, prefix: str) -> Split:
        noise = torch.randint(-20, 20, (count, 3, SIDE, SIDE), generator=generator)
        images = pictures[torch.arange(count) % 3] + noise
        return split(images.clamp(0, 255).to(torch.uint8), prefix)

    if kind == "digits":
        dataset = resight.data("digits")
        pair = (dataset.test, dataset.train)
    elif kind == "noise":
        pair = (tiny.test, tiny.train)
    elif kind == "blank":
        blank = torch.zeros(90, 3, SIDE, SIDE, dtype=torch.uint8)
        pair = (split(blank[:30], "test"), split(blank, "train"))
    else:
        pictures = colors.expand(-1, -1, SIDE, SIDE) if kind == "flat" else icons
        pair = (noisy(pictures, 60, "test"), noisy(pictures, 300, "train"))
    assert near_copies(*pair).rows.tolist() == []


def test_a_search_may_be_limited_to_some_images(planted: Dataset) -> None:
    pairs = near_copies(planted.test, planted.train, max_products=NUM_TRAIN * 40)
    assert pairs.num_searched == 40
    assert set(pairs.rows.tolist()) == {0, 3}  # every third image is looked at


def issues(dataset: Dataset, *, max_products: int = 2**32) -> dict[str, str]:
    checks = {name: DATASET_CHECKS[name] for name in ("near-duplicates", "train-test-overlap")}
    diagnosis = apply_checks(DatasetProbe(dataset, max_products=max_products), checks)
    messages = {f"{issue.severity} {issue.check}": issue.message for issue in diagnosis.issues}
    return messages | {f"skipped {name}": reason for name, reason in diagnosis.skipped.items()}


def test_the_check_counts_copies_and_those_of_another_label(planted: Dataset) -> None:
    assert list(issues(planted).items()) == [
        (
            "warning near-duplicates",
            "6 of 120 test images (5.0%) have a near copy in training, 0 of them with another "
            "label: test/0 and train/9",
        )
    ]
    labels = planted.test.labels.clone()
    labels[:2] = (labels[:2] + 1) % 3
    other = replace(planted, test=replace(planted.test, labels=labels))
    assert "2 of them with another label" in issues(other)["warning near-duplicates"]
    exact = planted.test.images.clone()
    exact[0] = planted.train.images[9]  # is told by the check of exact copies alone
    both = issues(replace(planted, test=replace(planted.test, images=exact)))
    assert both["warning near-duplicates"].startswith("5 of 120")
    assert both["error train-test-overlap"].startswith("1 of 120 test images")
    validated = replace(planted, test=split(scenes(60, 4), "new"), val=planted.test)
    assert issues(validated)["warning near-duplicates"].startswith("6 of 120 validation images")


def test_a_share_of_few_images_is_left_to_the_doctor(planted: Dataset) -> None:
    assert list(issues(planted, max_products=NUM_TRAIN * 40)) == ["skipped near-duplicates"]


def test_pairs_are_drawn_and_their_table_excludes_them(planted: Dataset, tmp_path: Path) -> None:
    labels = planted.test.labels.clone()
    labels[4] = (labels[4] + 1) % 3
    dataset = replace(planted, test=replace(planted.test, labels=labels))
    probe = DatasetProbe(dataset)
    first = copy_pairs(probe)[0]
    assert (first.id, first.label, first.train_id, first.train_label) == (
        *("test/4", "frame"),
        *("train/13", "bar"),
    )
    line = write_pairs(probe, tmp_path / "pairs.png")
    assert line == f"6 near copies: {tmp_path / 'pairs.png'} and {tmp_path / 'pairs.csv'}"
    with Image.open(tmp_path / "pairs.png") as picture:
        assert min(picture.size) > 300
    header, *rows = read_csv(tmp_path / "pairs.csv")
    assert header == ["id", "label", "copy", "copy_label", "split", "details"]
    assert {row[0] for row in rows} == {f"train/{9 + k}" for k in range(6)}
    assert issues(resight.corrected(dataset, exclude=tmp_path / "pairs.csv")) == {}
    write_pairs(
        DatasetProbe(replace(dataset, test=split(scenes(60, 4), "new"))), tmp_path / "n.svg"
    )
    assert "no near copies" in (tmp_path / "n.svg").read_text(encoding="utf-8")
    assert len(read_csv(tmp_path / "n.csv")) == 1
