"""Images and labels in a .npz file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resight
from refusal import refused


def images(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


LABELS = np.array([0, 1, 2] * 4)
NCHW = images(12, 3, 10, 10)


def write(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_with_a_test_set(tmp_path: Path, keys: tuple[str, ...]) -> None:
    values = (NCHW, LABELS, NCHW[:6], LABELS[:6])
    dataset = resight.data(write(tmp_path / "a.npz", **dict(zip(keys, values, strict=True))))
    assert np.array_equal(dataset.train.images.numpy(), NCHW)
    assert np.array_equal(dataset.test.images.numpy(), NCHW[:6])
    assert dataset.train.labels.tolist() == LABELS.tolist()
    assert dataset.classes == ("0", "1", "2")
    assert dataset.train.ids[3] == f"{keys[0]}[3]"
    assert dataset.name == "a"
    assert dataset.notes == ()


def test_without_a_test_set(tmp_path: Path) -> None:
    dataset = resight.data(write(tmp_path / "a.npz", images=NCHW, labels=LABELS))
    assert dataset.test.labels.bincount().tolist() == [1, 1, 1]
    assert len(dataset.train) == 9
    assert dataset.notes == ("no test split: 3 images, 20 % of each class, were held out",)


def test_medmnist_with_its_validation_images_and_column_labels(tmp_path: Path) -> None:
    gray, column = images(12, 28, 28), LABELS[:, None].astype(np.uint8)
    arrays = {
        f"{split}_{kind}": value
        for split in ("train", "val", "test")
        for kind, value in (("images", gray), ("labels", column))
    }
    dataset = resight.data(write(tmp_path / "a.npz", **arrays))
    assert np.array_equal(dataset.train.images.numpy(), gray[:, None])
    assert dataset.notes == ("val_images was skipped: validation images are held out of train",)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (NCHW.transpose(0, 2, 3, 1), NCHW),
        (NCHW[:, :1].transpose(0, 2, 3, 1), NCHW[:, :1]),
        (NCHW[:, 0], NCHW[:, :1]),
        (NCHW[:, :1], NCHW[:, :1]),
    ],
)
def test_orders_of_axes(tmp_path: Path, array: Any, expected: Any) -> None:
    path = write(tmp_path / "a.npz", x_train=array, y_train=LABELS, x_test=array, y_test=LABELS)
    assert np.array_equal(resight.data(path).train.images.numpy(), expected)


def test_floats_in_0_1_are_converted_and_noted(tmp_path: Path) -> None:
    array = NCHW.astype(np.float32) / 255
    path = write(tmp_path / "a.npz", x_train=array, y_train=LABELS, x_test=NCHW, y_test=LABELS)
    dataset = resight.data(path)
    assert np.array_equal(dataset.train.images.numpy(), NCHW)
    assert dataset.notes == ("x_train: [0, 1] was scaled to 0..255",)


def test_words_and_named_classes(tmp_path: Path) -> None:
    words = np.array(["owl", "cat", "dog"] * 4)
    dataset = resight.data(write(tmp_path / "words.npz", images=NCHW, labels=words))
    assert dataset.classes == ("cat", "dog", "owl")
    names = np.array(["cat", "dog", "owl"])
    dataset = resight.data(write(tmp_path / "named.npz", images=NCHW, labels=LABELS, classes=names))
    assert dataset.classes == ("cat", "dog", "owl")
    assert dataset.train.labels.bincount().tolist() == [3, 3, 3]


def test_another_size(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", images=images(12, 3, 20, 30), labels=LABELS)
    assert resight.data(path).train.images.shape == (9, 3, 32, 32)
    dataset = resight.data(path, image_size=16)
    assert dataset.train.images.shape == (9, 3, 16, 16)
    assert dataset.notes[0] == "12 images of 30x20 px were resized to 16 px"


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"a": NCHW}, "holds a; expected (x_train, y_train, x_test, y_test) or"),
        ({"images": NCHW}, "expected"),
        ({"images": NCHW.astype(np.int64), "labels": LABELS}, "images is int64 from 0 to 255"),
        ({"images": NCHW.astype(np.float32), "labels": LABELS}, "expected uint8, or floats in"),
        ({"images": NCHW[0, 0], "labels": LABELS}, "has shape (10, 10)"),
        ({"images": images(12, 4, 10, 10), "labels": LABELS}, "with C = 1 or 3"),
        ({"images": NCHW[:, :, :4, :4], "labels": LABELS}, "4x4 px is too small"),
        ({"images": NCHW[:0], "labels": LABELS[:0]}, "images holds no images"),
        ({"images": NCHW, "labels": LABELS[:5]}, "12 images but 5 labels"),
        ({"images": NCHW, "labels": np.eye(12)}, "expected (N,) whole numbers or words"),
        ({"images": NCHW, "labels": LABELS - 1}, "label -1 in row 0"),
        ({"images": NCHW, "labels": LABELS * 2}, "no training image of class '1'"),
        ({"images": NCHW, "labels": LABELS * 0}, "has 1 class"),
        ({"images": NCHW, "labels": np.array([None] * 12)}, "cannot be read as arrays"),
        (
            {"x_train": NCHW, "y_train": LABELS, "x_test": NCHW[:, :1], "y_test": LABELS},
            "differ in size or channels",
        ),
    ],
)
def test_unsound_arrays_are_refused(tmp_path: Path, arrays: Any, expected: str) -> None:
    with refused(expected):
        resight.data(write(tmp_path / "a.npz", **arrays))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.npz", images=NCHW, labels=LABELS))
    content = bytearray(path.read_bytes())
    content[500:600] = b"\x00" * 100  # pixels, which have a checksum
    path.write_bytes(content)
    with refused("a.npz cannot be read as arrays"):
        resight.data(str(path))
