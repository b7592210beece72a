"""Data that is in memory already: arrays, pictures, data sets of PyTorch and of Hugging Face."""

import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_iris
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

import resight
from refusal import refused

NAMES = ["owl", "cat", "dog"]
LABELS = [0, 1, 2] * 4
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3), dtype=np.uint8)
EXPECTED = PIXELS.transpose(0, 3, 1, 2)
PICTURES = [Image.fromarray(pixels) for pixels in PIXELS]
WORDS = [NAMES[label] for label in LABELS]


def check(dataset: resight.Dataset, classes: Sequence[str] = ("0", "1", "2")) -> None:
    """Check the pixels and the class of every image, which its id tells: a row in brackets."""
    assert sum(map(len, dataset.splits.values())) >= 9
    for split in dataset.splits.values():
        rows = [int(name.rpartition("[")[2][:-1]) for name in split.ids]
        assert np.array_equal(split.images.numpy(), EXPECTED[rows])
        told = [dataset.classes[label] for label in split.labels.tolist()]
        assert told == [classes[LABELS[row]] for row in rows]


# --- images and labels ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        EXPECTED,
        list(PIXELS),
        PIXELS.astype(np.int64),
        torch.from_numpy(EXPECTED.copy()),
        torch.from_numpy(EXPECTED / 255),
        [torch.from_numpy(pixels) for pixels in EXPECTED.copy()],
        PICTURES,
        tuple(PICTURES),
    ],
)
@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (LABELS, ("0", "1", "2")),
        (np.array(LABELS), ("0", "1", "2")),
        (torch.tensor(LABELS), ("0", "1", "2")),
        (list(torch.tensor(LABELS)), ("0", "1", "2")),
        (np.eye(3)[LABELS], ("0", "1", "2")),
        (WORDS, NAMES),
        (np.array(WORDS, dtype=object), NAMES),
    ],
)
def test_images_and_labels(images: Any, labels: Any, classes: Sequence[str]) -> None:
    check(resight.data(images, labels), classes)


def test_names_of_data_and_classes() -> None:
    dataset = resight.data(PIXELS, LABELS, classes=NAMES, name="pets")
    check(dataset, NAMES)
    assert (dataset.name, dataset.classes) == ("pets", tuple(NAMES))
    check(resight.data(PIXELS, [label + 1 for label in LABELS], classes=NAMES), NAMES)
    assert resight.data((PIXELS, LABELS)).fingerprint == resight.data(PIXELS, LABELS).fingerprint


def test_paths_and_pictures_of_several_sizes(tmp_path: Path) -> None:
    paths = []
    for row, picture in enumerate(PICTURES):
        paths.append(tmp_path / f"{row}.png")
        picture.resize((40 + row, 50)).save(paths[-1])
    dataset = resight.data([str(path) for path in paths], WORDS)
    assert {*dataset.train.ids, *dataset.test.ids} == {str(path) for path in paths}
    assert dataset.train.images.shape[1:] == (3, 32, 32)
    opened = [Image.open(path) for path in paths]
    assert torch.equal(resight.data(opened, WORDS).train.images, dataset.train.images)
    with refused("0.png cannot be read as a picture (No such file or directory)"):
        resight.data([tmp_path / "no" / "0.png", *paths[1:]], WORDS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK", "YCbCr", "HSV"])
def test_pictures_of_every_mode_are_read_as_from_a_file(tmp_path: Path, mode: str) -> None:
    gray = [picture.convert("L") for picture in PICTURES]
    pictures = [
        Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
        if mode == "I;16"
        else picture.convert(mode)
        for picture in gray
    ]
    from_objects = resight.data(pictures, LABELS)
    files = []
    for row, picture in enumerate(pictures):
        files.append(
            tmp_path / f"{row}.{'png' if mode in ('1', 'L', 'LA', 'P', 'RGBA') else 'tif'}"
        )
        (picture.convert("RGB") if mode == "HSV" else picture).save(files[-1])
    assert torch.equal(resight.data(files, LABELS).train.images, from_objects.train.images)


def test_a_picture_with_transparency_is_laid_over_white() -> None:
    image = Image.new("P", (10, 10))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.info["transparency"] = 0
    dataset = resight.data([image] * 12, LABELS)
    assert (dataset.train.images == 255).all()


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (PIXELS, LABELS[:5], "train images has 12 images but 5 labels; give each image one"),
        (PICTURES, LABELS[:5], "12 train images have 5 labels; give each image one"),
        (PIXELS, [*LABELS[:11], 3.5], "label 3.5 in row 11 of train labels is no whole number"),
        (PIXELS, [*WORDS[:11], 3], "train labels holds objects of type int, str; give whole"),
        (PIXELS, [[0, 1], [1]] * 6, "labels are no array"),
        (PIXELS, np.ones((12, 3)), "not a single 1 among zeros"),
        (PIXELS, [{}] * 12, "train labels holds objects of type dict"),
        (PIXELS / 255 * 4 - 2, LABELS, "which looks standardized"),
        ([PIXELS[0], *PIXELS[1:, :9]], LABELS, "have the shapes (10, 10, 3) and (9, 10, 3)"),
        ([*PICTURES[:11], PIXELS[0]], LABELS, "train[11] is a ndarray, and others are pictures"),
        (7, LABELS, "train images are a int; give an array or a list"),
    ],
)
def test_what_does_not_fit_is_refused(images: Any, labels: Any, expected: str) -> None:
    with refused(expected):
        resight.data(images, labels)


def test_options_are_checked(tmp_path: Path) -> None:
    with refused("image_size = 3 must be 8 to 512 px"):
        resight.data(PIXELS, LABELS, image_size=3)
    with refused("classes = 'cat' must be same, train or a list of names"):
        resight.data(PIXELS, LABELS, classes="cat")  # type: ignore[call-overload]
    with refused("data 'digits' has its own name and classes"):
        resight.data("digits", name="mine")
    assert resight.data(PIXELS, LABELS, image_size=16).train.images.shape[2:] == (16, 16)


# --- splits and named arrays ----------------------------------------------------------------


def test_several_splits() -> None:
    few = (PIXELS[:6], LABELS[:6])
    dataset = resight.data({"train": (PIXELS, LABELS), "valid": few, "test": few})
    check(dataset)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 12,
        "val": 6,
        "test": 6,
    }
    with refused("'testing' is a second test split; give one"):
        resight.data({"train": few, "test": few, "testing": few})
    with refused("train and test are of different kinds"):
        resight.data({"train": few, "test": (PICTURES[:6], LABELS[:6])})


def test_named_arrays() -> None:
    arrays = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:6], "y_test": LABELS[:6]}
    dataset = resight.data(arrays)
    check(dataset)
    assert len(dataset.test) == 6
    with refused("the dict holds a; expected x_train"):
        resight.data({"a": PIXELS})


def test_scikit_learns_digits() -> None:
    bunch = load_digits()
    dataset = resight.data(bunch, name="digits8")
    rows = [int(name.removeprefix("images[")[:-1]) for name in dataset.train.ids]
    expected = np.rint(bunch.images[rows] * (255 / 16))
    assert np.array_equal(dataset.train.images[:, 0].numpy(), expected)
    assert np.array_equal(dataset.train.labels.numpy(), bunch.target[rows])
    assert dataset.classes == tuple("0123456789")
    with refused("data: float64 from 0.1 to 7.9; give uint8"):
        resight.data(load_iris())


# --- PyTorch --------------------------------------------------------------------------------


class Pairs(torch.utils.data.Dataset[Any]):
    """(image, label) pairs, the image changed by a transform."""

    classes = NAMES

    def __init__(self, transform: Callable[[Image.Image], Any], count: int = 12) -> None:
        self.transform, self.count = transform, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.transform(PICTURES[row]), LABELS[row]


def to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


@pytest.mark.parametrize(
    ("transform", "note"),
    [
        (lambda picture: picture, None),
        (np.array, None),
        (to_tensor, "train images: pixels in [0, 1] were scaled to 0..255"),
        (lambda p: (to_tensor(p) - 0.5) / 0.5, "pixels in [-1, 1] were scaled to 0..255"),
    ],
)
def test_a_data_set_of_pairs(transform: Callable[[Image.Image], Any], note: str | None) -> None:
    dataset = resight.data(Pairs(transform))
    check(dataset, NAMES)
    assert dataset.name == "Pairs"
    assert note is None or note in dataset.notes[0]


def test_other_data_sets() -> None:
    both = {"train": Pairs(to_tensor), "test": Pairs(to_tensor, 6)}
    assert len(resight.data(both).test) == 6
    check(resight.data(both), NAMES)
    check(resight.data(TensorDataset(torch.from_numpy(EXPECTED.copy()), torch.tensor(LABELS))))
    check(resight.data(list(zip(PICTURES, LABELS, strict=True))))
    items = [{"image": picture, "label": label} for picture, label in zip(PICTURES, LABELS)]  # noqa: B905
    check(resight.data(items))


def test_a_part_of_a_data_set_keeps_names_and_files() -> None:
    whole = Pairs(lambda picture: picture)
    whole.samples = [(f"owls/{row}.png", 0) for row in range(12)]  # type: ignore[attr-defined]
    rows = [11, 3, 4, 8, 0, 1]
    dataset = resight.data({"train": Subset(whole, rows), "test": Subset(whole, rows)})
    assert dataset.classes == tuple(NAMES)
    assert dataset.train.ids == tuple(f"owls/{row}.png" for row in rows)
    assert np.array_equal(dataset.train.images.numpy(), EXPECTED[rows])


@pytest.mark.parametrize(
    "draw",
    [lambda: torch.rand(1).item(), lambda: random.random(), lambda: np.random.rand()],  # noqa: NPY002
)
def test_a_random_transform_is_refused_and_the_random_state_kept(
    draw: Callable[[], float],
) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr] # noqa: NPY002
    with refused("differs when it is read again, so its transform is random; leave the"):
        resight.data(Pairs(lambda p: p.transpose(Image.Transpose(0)) if draw() < 0.5 else p))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # type: ignore[index] # noqa: NPY002


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield PICTURES[0], 0


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Pairs(lambda p: (to_tensor(p) - 0.45) / 0.22), "which looks standardized"),
        (Pairs(lambda p: p, 0), "train is empty; give at least two images of each class"),
        (DataLoader(Pairs(to_tensor)), "is a loader of batches; give its data set, as loader.data"),
        (Stream(), "train is of type Stream; give images and labels, a data set of"),
        (PIXELS, "train is of type ndarray without labels; give images and labels"),
        ([1, 2], "train[0] is a int; expected a pair of image and label"),
        ([{"a": 1}], "train[0] has the keys a; expected image and label"),
        (None, "train is of type NoneType"),
        ({}, "the dict holds no arrays"),
    ],
)
def test_other_objects_are_refused(source: Any, expected: str) -> None:
    with refused(expected):
        resight.data(source)


# --- Hugging Face ---------------------------------------------------------------------------


def png(row: int) -> bytes:
    stream = io.BytesIO()
    PICTURES[row].save(stream, "PNG")
    return stream.getvalue()


def test_a_data_set_of_the_library_datasets() -> None:
    pytest.importorskip("datasets.arrow_dataset")  # `datasets` alone is the folder of this file
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    content = {"image": [{"bytes": png(row)} for row in range(12)], "label": LABELS}
    whole = datasets.Dataset.from_dict(content, features=features)
    order = [5, 4, 3, 2, 1, 0, 6, 7, 8]
    both = datasets.DatasetDict(train=whole.select(order), test=whole)
    dataset = resight.data(both)
    assert np.array_equal(dataset.train.images.numpy(), EXPECTED[order])
    assert dataset.train.labels.tolist() == [LABELS[row] for row in order]
    assert dataset.classes == tuple(NAMES)
    augmented = resight.data(whole.with_transform(lambda batch: batch))
    assert "its transform was left out" in augmented.notes[0]
    with refused("train is streamed; load it without streaming=True"):
        resight.data(whole.to_iterable_dataset())


class Records:
    """The part of `datasets.Dataset` that is used, over an Arrow table; the library is optional."""

    column_names = ("image", "label")
    format = {"type": None}  # noqa: RUF012

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @property
    def features(self) -> Any:
        return type("Features", (), {"arrow_schema": self.table.schema})

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def select_columns(self, names: list[str]) -> "Records":
        return Records(self.table.select(names))

    def with_format(self, kind: str) -> "Records":
        assert kind == "arrow"
        return self

    def __getitem__(self, rows: slice) -> pa.Table:
        return self.table.slice(rows.start, rows.stop - rows.start)


def test_records_without_the_library() -> None:
    table = pa.table({"image": [{"bytes": png(row)} for row in range(12)], "label": LABELS})
    dataset = resight.data({"train": Records(table), "validation": Records(table)})
    assert dataset.val is not None
    assert np.array_equal(dataset.val.images.numpy(), EXPECTED)
    assert dataset.val.ids[3] == "val#3"
