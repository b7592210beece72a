"""CIFAR-10 and CIFAR-100 in the forms that their authors publish."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import resight
from cifar_files import (
    CLASSES,
    Pixels,
    archive,
    batch,
    cifar10_binary,
    cifar10_python,
    cifar100_binary,
    cifar100_python,
    python2_pickle,
    write_folder,
)
from refusal import refused
from resight.datasets import Dataset
from resight.datasets.readers.unpickle import load_arrays
from resight.errors import UsageError

FORMS = ("Python batches", "binary files")


def check_cifar10(dataset: Dataset) -> None:
    pixels = np.concatenate([batch(seed)[0] for seed in range(5)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(dataset.train.images.numpy(), pixels)
    assert dataset.train.labels.tolist() == list(range(10)) * 5
    assert np.array_equal(dataset.test.images.numpy(), batch(5)[0].reshape(-1, 3, 32, 32))
    assert dataset.classes == CLASSES
    assert dataset.notes in tuple((f"layout cifar: CIFAR-10, {form}",) for form in FORMS)


def check_cifar100(dataset: Dataset) -> None:
    assert np.array_equal(dataset.train.images.flatten(1).numpy(), batch(0, 200)[0])
    assert dataset.train.labels.tolist() == list(range(100)) * 2  # fine, not coarse
    assert dataset.classes == tuple(f"fine-{i}" for i in range(100))


def test_python_batches(tmp_path: Path) -> None:
    dataset = resight.data(str(write_folder(tmp_path / "any-name", cifar10_python())))
    check_cifar10(dataset)
    assert dataset.name == "any-name"
    assert dataset.train.ids[0] == "data_batch_1#0"
    assert dataset.train.ids[-1] == "data_batch_5#9"
    assert dataset.test.ids[3] == "test_batch#3"


def test_binary_files(tmp_path: Path) -> None:
    dataset = resight.data(str(write_folder(tmp_path / "bin", cifar10_binary())))
    check_cifar10(dataset)
    assert dataset.train.ids[0] == "data_batch_1.bin#0"


def test_cifar100_in_both_forms(tmp_path: Path) -> None:
    check_cifar100(resight.data(str(write_folder(tmp_path / "py", cifar100_python()))))
    check_cifar100(resight.data(str(write_folder(tmp_path / "bin", cifar100_binary()))))


def test_the_parent_folder_is_accepted(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "cifar-10-batches-py", cifar10_python())
    (tmp_path / "data" / "cifar-10-python.tar.gz").write_bytes(b"not read")
    check_cifar10(resight.data(str(tmp_path / "data")))


def test_two_data_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "cifar-10-batches-py", cifar10_python())
    write_folder(tmp_path / "data" / "cifar-100-python", cifar100_python())
    with pytest.raises(UsageError, match=r"choose between .*batches-py and .*100-python"):
        resight.data(str(tmp_path / "data"))


def test_an_archive_is_read_and_not_unpacked(tmp_path: Path) -> None:
    for files in (cifar10_python(), cifar10_binary()):
        (tmp_path / "download").write_bytes(archive(files))
        check_cifar10(resight.data(str(tmp_path / "download")))
    assert [p.name for p in tmp_path.iterdir()] == ["download"]


def test_a_change_of_size_is_noted(tmp_path: Path) -> None:
    dataset = resight.data(str(write_folder(tmp_path / "py", cifar10_python())), image_size=16)
    assert dataset.train.images.shape == (50, 3, 16, 16)
    assert dataset.notes[1:] == ("50 images of 32x32 px were resized to 16 px",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_pickled_by_python_3_are_read(protocol: int) -> None:
    pixels, labels = batch(0)
    content = {"data": np.asfortranarray(pixels), "labels": labels}
    arrays = load_arrays(pickle.dumps(content, protocol), "batch")
    assert np.array_equal(arrays["data"], pixels)
    assert arrays["labels"] == labels


def test_arrays_pickled_by_python_2_are_read_as_pickle_reads_them() -> None:
    pixels, labels = batch(1)
    content = python2_pickle({b"data": pixels, b"labels": labels, b"name": b"one"})
    expected = pickle.loads(content, encoding="bytes")
    arrays = load_arrays(content, "batch")
    assert np.array_equal(arrays["data"], expected[b"data"])
    assert arrays["labels"] == expected[b"labels"]
    assert arrays["name"] == expected[b"name"]


def pickled(pixels: Pixels, labels: list[int]) -> bytes:
    return python2_pickle({b"data": pixels, b"labels": labels})


PIXELS, LABELS = batch(0)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("data_batch_1", None, "data_batch_1 is missing"),
        ("batches.meta", None, "batches.meta is missing"),
        ("data_batch_2", b"", "data_batch_2 is not a whole pickle"),
        ("data_batch_2", cifar10_python()["data_batch_2"][:-900], "not a whole pickle"),
        ("data_batch_2", python2_pickle([1]), "holds a list, not a dictionary"),
        ("test_batch", python2_pickle({b"data": PIXELS}), "is not a CIFAR batch"),
        ("test_batch", pickled(PIXELS[:, :9], LABELS), "shape (N, 3072)"),
        ("test_batch", pickled(PIXELS, LABELS[1:]), "is not a CIFAR batch"),
        ("test_batch", pickled(PIXELS, [256] * 10), "a number from 0 to 255 in labels"),
        ("test_batch", pickled(PIXELS, [10] * 10), "label 10 in row 0 of test_batch is none of"),
        ("test_batch", pickled(PIXELS[:0], []), "test_batch holds no images"),
        ("batches.meta", python2_pickle({}), "no list of class names"),
        ("test_batch.bin", b"\x00" * 3072, "test_batch.bin is cut off"),
        ("test_batch.bin", b"\xff" * 3073, "label 255 in row 0 of test_batch.bin is none of"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    folder = write_folder(
        tmp_path / "cifar", cifar10_binary() if name.endswith(".bin") else cifar10_python()
    )
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with refused(expected):
        resight.data(str(folder))


def test_splits_do_not_share_memory(tmp_path: Path) -> None:
    dataset = resight.data(str(write_folder(tmp_path / "py", cifar10_python())))
    before = dataset.test.images.clone()
    dataset.train.images.zero_()
    assert torch.equal(dataset.test.images, before)
